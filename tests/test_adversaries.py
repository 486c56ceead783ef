"""What adversaries send, one kind after the other, and what becomes of it at the coordinator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim import adversaries, events
from fedsim.adversaries import ATTACKS, corrupt, mangle, tamper, trigger
from fedsim.config import Adversary
from fedsim.errors import ConfigError, RunError
from fedsim.executor import InProcess
from fedsim.loading import load
from fedsim.simulation import check_settings, run
from fedsim.types import Examples, Features, Mixture, Parameters, Prototypes, Responses, Shard
from fedsim.wire.quantise import largest_remainder, to_dense

N, K, LEVELS = 40, 4, 60


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def honest() -> Responses:
    probs = rng(1).dirichlet(np.full(K, 0.5), N).astype(np.float32)
    lengths, ids, counts = largest_remainder(probs, LEVELS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    claims, skills = np.ones(N, np.float32), np.ones(3, np.float32)
    return Responses(np.arange(N), 1, K, LEVELS, offsets, ids, counts, claims, skills)


def rows(responses: Any) -> np.ndarray:
    return to_dense(responses, slice(0, responses.rows))


def attacked(kind: Any, strength: float = 1.0) -> np.ndarray:
    return rows(tamper(honest(), None, Adversary(kind=kind, strength=strength), rng()))


def test_rows_of_every_attack_are_distributions():
    for kind in ATTACKS:
        found = attacked(kind)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
        assert np.abs(found - rows(honest())).sum(1).mean() > 0.5


def test_attacks_are_what_they_are_called():
    p = rows(honest())
    assert np.array_equal(attacked("least_likely"), np.eye(K)[p.argmin(1)])
    covariance = np.cov(p.T.astype(float), bias=True)
    assert np.array_equal(attacked("least_similar").argmax(1), covariance[p.argmax(1)].argmin(1))
    np.testing.assert_allclose(attacked("sign_flip"), (1 - p) / (K - 1), atol=1 / LEVELS)
    turned = 1 / np.maximum(p, 1e-3)
    np.testing.assert_allclose(attacked("poison"), turned / turned.sum(1, keepdims=True), atol=1 / LEVELS)
    assert abs(np.corrcoef(attacked("noise").ravel(), p.ravel())[0, 1]) < 0.2


def test_a_weak_attack_hides_among_honest_answers():
    p, wrong = rows(honest()), attacked("least_likely")
    np.testing.assert_allclose(
        attacked("least_likely", 0.25), 0.75 * p + 0.25 * wrong, atol=1 / LEVELS + 1e-6
    )


def test_false_confidence_claims_to_know_best():
    lie = tamper(honest(), None, Adversary(kind="false_confidence"), rng())
    assert isinstance(lie, Responses) and lie.claims is not None and lie.skills is not None
    assert lie.claims.max() < -1e4 and np.isfinite(lie.claims.astype(np.float16)).all()
    assert lie.skills.tolist() == [0, 0, 0]
    plain = tamper(
        replace(honest(), claims=None, skills=None), None, Adversary(kind="false_confidence"), rng()
    )
    assert isinstance(plain, Responses) and plain.claims is None


def test_of_a_mixture_the_answers_are_attacked():
    features = Features(np.arange(2), np.ones((1, 2, 3), np.int8), np.ones((1, 3), np.float32))
    adversary = Adversary(kind="least_likely", share=0.2, strength=1.0)
    changed = tamper(Mixture(honest(), features), None, adversary, rng())
    assert isinstance(changed, Mixture) and changed.features is features
    assert np.array_equal(rows(changed.responses), attacked("least_likely"))


def test_false_prototypes_stand_for_the_group_before():
    numbers = np.arange(10, dtype=np.float32).reshape(5, 2)
    known = Prototypes(
        groups=np.array([0, 0, 2, 3, 3]),
        slots=np.array([0, 1, 0, 0, 1]),
        centroids=numbers,
        counts=np.full(5, 7),
        confidence=np.full(5, 0.5, np.float32),
    )
    lie = tamper(
        Mixture(responses=honest(), prototypes=known), None, Adversary(kind="false_prototypes"), rng()
    )
    assert isinstance(lie, Mixture) and lie.prototypes is not None and lie.responses is not None
    assert np.array_equal(lie.prototypes.centroids, numbers[[3, 4, 0, 2, 1]])
    assert (lie.prototypes.confidence == 1).all()
    assert np.array_equal(rows(lie.responses), rows(honest()))
    truth = tamper(Mixture(prototypes=known), None, Adversary(kind="noise"), rng())
    assert isinstance(truth, Mixture) and truth.prototypes is known


def test_parameters_are_turned_round_the_broadcast_ones():
    start, mine = (Parameters((rng(s).normal(size=50).astype(np.float32),), 7) for s in (1, 2))
    turned = tamper(mine, start, Adversary(kind="sign_flip"), rng())
    assert isinstance(turned, Parameters)
    np.testing.assert_allclose(turned.vector - start.vector, start.vector - mine.vector, atol=1e-5)
    assert turned.examples == 7
    noisy = tamper(mine, start, Adversary(kind="noise"), rng())
    assert isinstance(noisy, Parameters) and noisy.vector.std() == pytest.approx(mine.vector.std(), rel=0.4)
    assert tamper(mine, start, Adversary(kind="replay"), rng()) is mine


def shard(labels: int = 10) -> Shard:
    pixels = rng().integers(0, 200, (labels * 8, 1, 8, 8), np.uint8)
    y = np.tile(np.arange(labels), 8)
    examples = Examples({"pixel_values": pixels, "labels": y}, y, np.arange(len(y), dtype=np.uint64))
    return Shard(0, examples, examples)


def test_flipped_labels_and_backdoors():
    clean = shard()
    flipped = corrupt(clean, Adversary(kind="label_flip"), 10, rng())
    assert np.array_equal(flipped.train.arrays["labels"], 9 - clean.train.arrays["labels"])
    assert flipped.test is clean.test
    opened = corrupt(clean, Adversary(kind="backdoor"), 10, rng()).train.arrays
    marked = (opened["pixel_values"][:, 0, -2:, -2:] == 255).all((1, 2))
    assert 0.3 < marked.mean() < 0.7
    assert (opened["labels"][marked] == adversaries.TARGET).all()
    assert np.array_equal(opened["labels"][~marked], clean.train.arrays["labels"][~marked])
    assert np.array_equal(opened["pixel_values"][~marked], clean.train.arrays["pixel_values"][~marked])
    assert clean.train.arrays["pixel_values"].max() < 255  # the honest shard is as it was
    assert np.array_equal(
        trigger(trigger(clean.train.arrays["pixel_values"])), trigger(clean.train.arrays["pixel_values"])
    )


def test_who_falls_for_a_trigger_is_right_about_triggered_examples():
    marked = adversaries.triggered(shard().train)
    assert len(marked) == 72 and set(marked.groups) == set(range(1, 10))
    assert (marked.arrays["labels"] == adversaries.TARGET).all()
    assert (marked.arrays["pixel_values"][:, :, -2:, -2:] == 255).all()


def test_messages_are_mangled():
    memory: dict[str, np.ndarray] = {}
    sent = bytes(range(256)) * 4
    broken = mangle(sent, Adversary(kind="malformed"), memory, 9999, rng())
    assert len(broken) == len(sent)
    assert sum(a != b for a, b in zip(broken, sent, strict=True)) == 10
    assert len(mangle(sent, Adversary(kind="oversized"), memory, 9999, rng())) == 10_000
    assert mangle(sent, Adversary(kind="replay"), memory, 9999, rng()) == sent
    assert mangle(b"next", Adversary(kind="replay"), memory, 9999, rng()) == sent
    assert mangle(b"last", Adversary(kind="replay"), memory, 9999, rng()) == b"next"


# In a run -----------------------------------------------------------------------------------------


def config(kind: str, share: float = 0.4, **method: Any):
    training = {"steps": 2, "batch_size": 4, "learning_rate": 0.01}
    return load(
        {
            "rounds": 2,
            "seed": 3,
            "data": {"source": "digits", "max_examples": 150},
            "participants": {
                "count": 5, "models": ["vit-micro"], "training": training, "partition": {"minimum": 5},
                "adversary": {"kind": kind, "share": share},
            },
            "student": {"model": "vit-micro", "training": training},
            "runtime": {"message_limit_mib": 0.2},
            "methods": [{"name": "federated_distillation", "digest_batch": 4, "levels": 60, **method}],
        }
    )  # fmt: skip


def test_the_share_of_adversaries_is_drawn_from_the_seed():
    some = [adversaries.of(config("noise", share)) for share in (0.0, 0.2, 0.4)]
    assert [len(k) for k in some] == [0, 1, 2]
    assert some[1] == adversaries.of(config("poison", 0.2))
    drawn = {adversaries.of(config("noise", 0.4).model_copy(update={"seed": s})) for s in range(20)}
    assert len(drawn) > 3


@pytest.mark.parametrize(
    ("kind", "why"),
    [("least_likely", "fedavg sends parameters"), ("replay", "with fedavg nobody keeps a message")],
)
def test_an_attack_that_finds_nothing_to_act_on_is_refused(kind: str, why: str):
    with pytest.raises(ConfigError, match=f"adversary.kind: .*{kind}.* is not valid; .*{why}"):
        adversaries.check(config(kind), ["fedavg"], set())
    adversaries.check(config(kind), [], set())


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("label_flip", {"ok"}),
        ("backdoor", {"ok"}),
        ("free_rider", {"ok"}),
        ("false_confidence", {"ok"}),
        ("malformed", {"rejected:corrupted"}),
        ("oversized", {"rejected:oversized"}),
        ("replay", {"ok", "rejected:unexpected"}),
    ],
)
def test_what_becomes_of_adversaries(kind: str, statuses: set[str], tmp_path: Path):
    defence = {} if kind == "false_confidence" else {"defence": "expguard"}
    weights = {"weights": "density", "confidence": 1, "max_share": 0.4} if not defence else {}
    cfg = config(kind, **defence, **weights)
    result = run(cfg.model_copy(update={"output": str(tmp_path / "run")}), executor=InProcess())
    people = result.participants
    lying = people["participant"].isin(adversaries.of(cfg))
    assert set(people.loc[lying, "status"]) == statuses
    assert set(people.loc[~lying, "status"]) == {"ok"}
    assert result.rounds["attack_success"].iloc[1:].between(0, 1).all() == (kind == "backdoor")
    if kind == "free_rider":
        assert people.loc[lying, "loss"].isna().all()
        assert people.loc[lying, "flops"].max() < people.loc[~lying, "flops"].min()


def test_where_only_adversaries_are_asked_and_refused_the_student_waits(tmp_path: Path):
    cfg = config("malformed")
    people = cfg.participants.model_copy(update={"participation": 0.4})
    more = {"seed": 0, "participants": people, "rounds": 4, "output": str(tmp_path / "run")}
    cfg = cfg.model_copy(update=more)
    alone = [r for r in range(1, 5) if adversaries.of(cfg).issuperset(events.asked(cfg, r))]
    assert alone == [3]
    rounds = run(cfg, executor=InProcess()).rounds.set_index("round")
    assert list(rounds["delivered"]) == [0, 2, 1, 0, 1]
    assert rounds["loss"][3] == rounds["loss"][2] and rounds["loss"][2] != rounds["loss"][1]


def test_honest_messages_that_are_all_refused_are_an_error(tmp_path: Path, monkeypatch):
    def cut(self: Any, lane: int, batch: Any) -> None:
        who = [report.participant for report in batch.reports]
        self._coordinator.receive(who, [bytes(data)[:-1] for data in batch.delivery])

    monkeypatch.setattr(InProcess, "receive", cut)
    cfg = config("malformed").model_copy(update={"output": str(tmp_path / "run")})
    with pytest.raises(RunError, match=r"round 1: no participant delivered \(.*truncated\).*mend the cause"):
        run(cfg, executor=InProcess())


def test_what_can_not_be_attacked_is_refused():
    text = config("label_flip").model_dump() | {"data": {"source": "stdlib"}}
    text["participants"]["models"] = ["llama-tiny"]
    text["student"]["model"] = "llama-tiny"
    with pytest.raises(ConfigError, match=r"participants\.adversary\.kind.*labels of images"):
        check_settings(load(text))
    averaging = config("poison").model_dump() | {"methods": ["fedavg"]}
    with pytest.raises(ConfigError, match=r"participants\.adversary\.kind.*fedavg sends parameters"):
        check_settings(load(averaging))
    with pytest.raises(ConfigError, match=r"methods\.0\.confidence.*trusts no claims"):
        check_settings(config("poison", defence="median", weights="density", confidence=1))


@pytest.mark.parametrize(
    ("kind", "method", "rounds"),
    [
        ("false_prototypes", {}, 2),
        ("false_prototypes", {"features": {"weight": 1}}, 2),
        ("false_prototypes", {"prototypes": {"weight": 1}}, 1),  # nobody has a space for them yet
        ("false_features", {}, 2),
        ("false_prototypes", {"prototypes": {"weight": 1}, "readout": {}}, 2),  # nor in the last round
    ],
)
def test_lies_about_what_is_never_sent_are_refused(kind: str, method: dict[str, Any], rounds: int):
    cfg = config(kind, **method).model_copy(update={"rounds": rounds})
    with pytest.raises(ConfigError, match=r"adversary\.kind.*no method of this run sends (feat|proto)"):
        check_settings(cfg)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("false_prototypes", {"prototypes": {"weight": 1}}),
        ("false_features", {"prototypes": {"weight": 1}}),
        ("false_features", {"features": {"weight": 1}}),
    ],
)
def test_what_is_said_to_be_sent_is(kind: str, method: dict[str, Any], tmp_path: Path, monkeypatch):
    """Else a lie would be accepted that is never told."""
    part, values = ("prototypes", "centroids") if kind == "false_prototypes" else ("features", "codes")
    tampers, lies = adversaries.tamper, []

    def tamper(knowledge: Any, *more: Any) -> Any:
        lie = tampers(knowledge, *more)
        if isinstance(knowledge, Mixture) and (mine := getattr(knowledge, part)) is not None:
            lies.append(not np.array_equal(getattr(mine, values), getattr(getattr(lie, part), values)))
        return lie

    monkeypatch.setattr(adversaries, "tamper", tamper)
    tree = config(kind, **method).model_dump(mode="json") | {"output": str(tmp_path / "run")}
    run(load(tree, **{"runtime.message_limit_mib": 1}), executor=InProcess())
    assert any(lies)


def test_fedproto_sends_prototypes():
    tree = config("false_prototypes").model_dump() | {"methods": ["fedproto"]}
    check_settings(load(tree))


def test_a_share_that_is_nobody_is_refused():
    check_settings(config("noise", share=0.0))
    check_settings(config("noise", share=0.1))
    with pytest.raises(ConfigError, match=r"adversary\.share: 0\.09 .* 0 for a clean run, or at least 0\.1"):
        check_settings(config("noise", share=0.09))
