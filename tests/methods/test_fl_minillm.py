"""FL-MiniLLM: who continues what, what is pooled, and whole runs of each kind of feedback."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import config as configs
from fedsim import loading, simulation
from fedsim.aggregation.rollouts import RolloutPool
from fedsim.disk.checkpoints import Checkpoints
from fedsim.errors import ConfigError, MessageError
from fedsim.executor import InProcess
from fedsim.methods import method_of
from fedsim.progress import Lines
from fedsim.simulation import world as make_world
from fedsim.types import Rollouts, Sequences
from tests.power_cut import Dies

rng = np.random.default_rng(0)
ASKED = Sequences(np.array([2, 5, 9]), np.array([0, 4, 5, 9]), np.arange(1, 10, dtype=np.int32))
OWNER = np.repeat([0, 1, 2], [4, 1, 4])
MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def pool(confidence: float = 0.0, drawn: int = 2) -> RolloutPool:
    reference = np.array([1.0, 2, 3]) if confidence else None
    return RolloutPool(
        ASKED,
        classes=20,
        drawn=drawn,
        levels=0,
        confidence=confidence,
        reference=reference,
        room=np.full(12, 6),
        end=0,
    )


def told(claims: list[float] | None = None) -> Rollouts:
    scores = np.log(rng.uniform(0.01, 1, (9, 3))).astype(np.float32)
    return Rollouts(scores=scores, claims=None if claims is None else np.array(claims, np.float32))


def test_teachers_are_pooled_by_the_mean_of_their_probabilities():
    several, teachers = pool(), [told() for _ in range(4)]
    for k, teacher in enumerate(teachers):
        several.add(k, teacher)
    mean = np.mean([np.exp(t.scores.astype(float)) for t in teachers], axis=0)
    np.testing.assert_allclose(several.log_probs(), np.log(mean), atol=1e-9)


def test_teachers_of_one_mind_are_as_one():
    one, three, teacher = pool(), pool(), told()
    one.add(0, teacher)
    for k in range(3):
        three.add(k, teacher)
    np.testing.assert_allclose(three.log_probs(), one.log_probs(), atol=1e-9)
    np.testing.assert_allclose(one.log_probs(), teacher.scores, atol=1e-6)  # no sum of logits would


def test_who_knows_a_sample_better_weighs_more_on_it():
    weighted, claims = pool(confidence=0.7), [[0.5, 2, 9], [1, 1, 1.5]]
    teachers = [told(c) for c in claims]
    for k, teacher in enumerate(teachers):
        weighted.add(k, teacher)
    w = np.exp(np.clip(0.7 * (np.array([1, 2, 3]) - np.array(claims)), -4, 4))[:, OWNER, None]
    p = np.stack([np.exp(t.scores.astype(float)) for t in teachers])
    np.testing.assert_allclose(weighted.log_probs(), np.log((w * p).sum(0) / w.sum(0)), atol=1e-9)


def test_order_and_place_of_arrival_change_no_bit():
    teachers = [told([1.0, k, 2]) for k in range(5)]
    first, second, other = pool(0.5), pool(0.5), pool(0.5)
    for k in range(5):
        first.add(k, teachers[k])
    for k in (4, 1):
        other.add(k, teachers[k])
    for k in (3, 0, 2):
        second.add(k, teachers[k])
    second.merge(other)
    assert np.array_equal(first.log_probs(), second.log_probs())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (Rollouts(), "no scores"),
        (Rollouts(scores=np.zeros((8, 3), np.float32)), "8, 3"),
        (Rollouts(scores=np.zeros((9, 2), np.float32)), "9, 2"),
        (Rollouts(scores=np.zeros((9, 3), np.float32)), "claim"),
        (Rollouts(scores=np.zeros((9, 3), np.float32), claims=np.zeros(2, np.float32)), "claim"),
    ],
)
def test_scores_of_something_else_are_refused(wrong: Rollouts, message: str):
    several = pool(confidence=1.0)
    with pytest.raises(MessageError, match=message):
        several.add(0, wrong)
    several.add(1, told([1, 2, 3]))
    assert np.isfinite(several.log_probs()).all() and not several.fresh


@pytest.mark.parametrize(
    "tokens, message", [([1] * 7, "leaves its window"), ([1, 0, 2], "goes on after its end")]
)
def test_sequences_that_nobody_could_have_generated_are_refused(tokens: list[int], message: str):
    several, made = pool(), np.array(tokens, np.int32)
    fresh = Sequences(np.array([3]), np.array([0, len(made)]), made)
    with pytest.raises(MessageError, match=message):
        several.add(0, Rollouts(fresh, scores=told().scores))
    assert not several.fresh


def tiny(folder: Path, **changes: Any) -> configs.RunConfig:
    model = folder / "config.json"
    model.write_text(json.dumps(MODEL))
    lines = [
        {"ask": f"what is {n} and {n % 7}?", "answer": f"it is {n + n % 7}, of course"} for n in range(400)
    ]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    training = {"steps": 2, "batch_size": 4}
    kinds = ("scalar", "sparse", "full")
    tree = {
        "rounds": 2,
        "output": str(folder / "run"),
        "data": {
            "source": "files",
            "path": str(folder / "sums.jsonl"),
            "modality": "text",
            "prompt_column": "ask",
            "text_column": "answer",
            "window": 48,
            "vocabulary": 300,
            "split": {"proxy": 0.2},
        },
        "participants": {"count": 3, "models": [str(model)], "training": training},
        "student": {"model": str(model), "training": training},
        "methods": [
            {"name": "fl_minillm", "label": kind, "feedback": kind, "sequences": 10, "longest": 12}
            for kind in kinds
        ],
        "evaluation": {"generate": 8, "longest": 12},
    }
    return loading.load(tree, **changes)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> simulation.Result:
    folder = tmp_path_factory.mktemp("feedback")
    return simulation.run(tiny(folder), executor=InProcess())


def test_more_feedback_takes_more_bytes_and_scalar_less_than_four_a_token(ran):
    rounds = ran.rounds[ran.rounds["round"] == 2].set_index("method")
    assert rounds.bytes_up["scalar"] < rounds.bytes_up["sparse"] < rounds.bytes_up["full"]
    assert set(ran.messages.kind) == {"sequences"} and set(ran.messages.direction) == {"up", "down"}
    # Nothing new is sampled in the last round: what goes up is scores, and two bytes a claim.
    sent, headers = rounds.bytes_up["scalar"] / 3, 200
    assert sent - headers - 2 * 10 < 4 * 10 * 12


def test_what_was_measured_is_in_a_table(ran):
    measured = ran.measures.set_index(["method", "round", "name"]).value
    for kind in ("scalar", "sparse", "full"):
        told = set(measured[kind][2].index)
        single = set() if kind == "scalar" else {"train/single_step"}
        assert {"train/long_term", "train/reverse_kl", "test/rouge_l"} | single <= told
        assert np.isfinite(measured[kind][2]).all()
        assert 0 <= measured[kind][2]["test/rouge_l"] <= 1
    assert "test/rouge_l" in measured["scalar"][0].index  # the public start, for comparison


def test_a_run_that_was_cut_off_ends_as_if_nothing_had_happened(ran, tmp_path):
    config = tiny(tmp_path, **{"methods.0.label": "again", "methods.1.label": "sparse"})
    config = config.model_copy(update={"methods": config.methods[1:2]})
    with pytest.raises(OSError, match="power cut"):
        simulation.run(config, executor=Dies())
    assert Checkpoints(config.folder, "sparse").finished() == 1
    resumed = simulation.run(config, executor=InProcess(), resume=True)
    for table, measured in (("rounds", ["wall_s", "peak_memory_mib"]), ("measures", []), ("messages", [])):
        whole, again = getattr(ran, table), getattr(resumed, table)
        expected = whole[whole.method == "sparse"].drop(columns=measured).reset_index(drop=True)
        assert expected.equals(again.drop(columns=measured).reset_index(drop=True)), table


def test_shares_are_disjoint_and_together_the_part_that_is_mixed_in(tmp_path):
    config = tiny(tmp_path)
    plan = simulation.check(config)
    world = make_world(config, simulation.federation.build(plan))
    method = method_of(world, "sparse")
    for round in (1, 2, 3):
        every = method.samples(round)
        shares = [method.share(round, k, 0.4, dealt=round) for k in range(3)]
        together = np.sort(np.concatenate(shares))
        assert len(together) == len(np.unique(together)) == round_of(0.4 * len(every))
        assert np.isin(together, every).all()
        whole = np.sort(np.concatenate([method.share(round, k, 1.0, dealt=round) for k in range(3)]))
        assert np.array_equal(whole, every)


def round_of(value: float) -> int:
    return int(value + 0.5)


def test_answers_are_what_is_predicted_of_instructions(tmp_path):
    federation = simulation.federation.build(simulation.check(tiny(tmp_path)))
    proxy = federation.public.proxy.arrays
    assert set(proxy) == {"input_ids", "prompt", "length"}
    from tokenizers import Tokenizer

    reader = Tokenizer.from_str(federation.tokenizer_json)
    for ids, prompt, length in zip(*(proxy[name] for name in ("input_ids", "prompt", "length")), strict=True):
        assert reader.decode(ids[:prompt].tolist()).startswith("what is ")
        assert reader.decode(ids[prompt : length - 1].tolist()).startswith("it is ")
        assert ids[length - 1] == federation.end_of_text and not ids[length:].any()


def test_rows_that_are_longer_than_a_window_are_counted(tmp_path):
    whole = simulation.federation.build(simulation.check(tiny(tmp_path)))
    assert whole.left_out == 0
    lengths = whole.public.proxy.arrays["length"]
    window = int(np.median(lengths))
    assert window < lengths.max()
    short = simulation.federation.build(simulation.check(tiny(tmp_path, **{"data.window": window})))
    parts = [short.public.proxy, short.public.validation, short.public.test]
    parts += [part for shard in short.shards for part in (shard.train, shard.test)]
    assert sum(map(len, parts)) == 400 - short.left_out and short.left_out > 0

    said = io.StringIO()
    config = tiny(tmp_path, rounds=1, **{"data.window": window, "methods": ["proxy_only"], "evaluation": {}})
    simulation.run(config, executor=InProcess(), progress=Lines(said))
    assert f"{short.left_out} of 400 rows are longer than data.window ({window})" in said.getvalue()


def refused(changed: dict[str, Any], folder: Path) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        simulation.check(tiny(folder, **changed))
    return error.value


def test_mistakes_are_found_before_anything_starts(tmp_path):
    assert refused({"data.source": "stdlib"}, tmp_path).field == "data.prompt_column"
    assert refused({"data.prompt_column": "question"}, tmp_path).field == "data.prompt_column"
    images = {"data": {"source": "digits"}, "evaluation": {}, "participants.models": ["vit-micro"]}
    error = refused({**images, "student.model": "vit-micro"}, tmp_path)
    assert error.field == "methods.0.name" and "text" in error.expected
    windows = {"data": {"source": "stdlib", "window": 16}, "methods": [{"name": "seq_kd", "prompt": 16}]}
    assert refused(windows, tmp_path).field == "methods.0.prompt"
    generate = {**images, "student.model": "vit-micro", "methods": ["solo"], "evaluation": {"generate": 3}}
    assert refused(generate, tmp_path).field == "evaluation.generate"


@pytest.mark.slow
def test_on_ray_with_hosts_that_pool_it_is_the_same_run(ran, tmp_path):
    config = tiny(tmp_path, **{"runtime.participants_per_actor": 2})
    spread = simulation.run(config.model_copy(update={"methods": config.methods[1:2]}))
    for table, measured in (("rounds", ["wall_s", "peak_memory_mib"]), ("measures", []), ("messages", [])):
        whole, again = getattr(ran, table), getattr(spread, table)
        expected = whole[whole.method == "sparse"].drop(columns=measured).reset_index(drop=True)
        assert expected.equals(again.drop(columns=measured).reset_index(drop=True)), table
