"""What a student is put to at the end of a run, in a run; and what can't be asked."""

import json
import math

import numpy as np
import pytest

from fedsim import data, simulation
from fedsim.errors import ConfigError
from fedsim.evaluation import exams
from fedsim.executor import InProcess
from fedsim.loading import load
from fedsim.simulation import world

QUESTIONS = [{"question": f"{k} plus {k} is", "choices": ["even", "odd"], "answer": k % 2} for k in range(8)]
ASKED = [
    {
        "prompt": "Say nothing in capitals",
        "instruction_id_list": ["change_case:english_lowercase"],
        "kwargs": [{}],
    },
    {"prompt": "No commas " * 40, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
]
TRAINING = {"steps": 2, "batch_size": 4}


@pytest.fixture
def files(tmp_path):
    for name, rows in (("tasks", QUESTIONS), ("asked", ASKED)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def text(files, **overrides):
    tree = {
        "rounds": 2,
        "output": str(files / "run"),
        "data": {"source": "stdlib", "max_examples": 150, "vocabulary": 300, "window": 32},
        "participants": {"models": ["llama-tiny"], "count": 2, "training": TRAINING},
        "student": {"model": "llama-tiny", "training": TRAINING},
        "evaluation": {
            "generate": 4, "longest": 8, "instructions": str(files / "asked.jsonl"),
            "tasks": [{"name": "sums", "path": str(files / "tasks.jsonl"), "shots": [0, 3]}],
        },
        "methods": ["proxy_only", "solo"],
    }  # fmt: skip
    return load(tree, **overrides)


def test_all_is_measured_after_the_last_round(files):
    result = simulation.run(text(files), executor=InProcess())
    rows = result.measures[result.measures["method"] == "proxy_only"]
    found = {int(r): dict(zip(g["name"], g["value"], strict=True)) for r, g in rows.groupby("round")}
    assert set(found[0]) == set(found[1]) == {
        f"test/{name}" for name in ("rouge_l", "bleu", "distinct_1", "distinct_2", "length")
    }  # fmt: skip
    last = found[2]
    for shots in (0, 3):
        of_task = last[f"task/sums/{shots}_shot/accuracy"]
        assert of_task * 5 == pytest.approx(round(of_task * 5))  # eight items, three of them examples
        assert f"task/sums/{shots}_shot/accuracy_normalised" in last
    for name in ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"):
        assert last[f"instructions/{name}"] in (0, 0.5, 1)
    groups = {name: value for name, value in last.items() if name.startswith("group/")}
    assert len(groups) > 1 and all(value > 1 for value in groups.values())  # perplexities
    assert {f"local/{k}" for k in (0, 1)} <= set(last)
    alone = result.participants[result.participants["round"] == 2]
    assert (alone["local_score"] > 1).all() and (alone["peak_memory_mib"] > 50).all()
    assert result.participants.loc[result.participants["round"] == 1, "local_score"].isna().all()


def test_instructions_are_asked_as_prompts_were_learnt(files):
    rows = [{"ask": f"what is {k}", "tell": f"it is {k}"} for k in range(150)]
    (files / "learnt.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"source": "files", "path": str(files / "learnt.jsonl"), "modality": "text"}
    columns = {"prompt_column": "ask", "text_column": "tell", "vocabulary": 300, "window": 32}
    config = text(files, data={**source, **columns})
    federation = data.build(data.plan(config))
    ours = world(config, federation)
    given = []

    class Listener:
        def generate(self, examples, prompts, room, *, end, key):
            given.extend(
                row[:n].tolist() for row, n in zip(examples.arrays["input_ids"], prompts, strict=True)
            )
            return np.zeros(len(examples) + 1, np.int64), np.zeros(0, np.int32)

    exams._answers(ours, Listener(), ["what is 3", "what is 77"])
    learnt = federation.shards[0].train.arrays
    known = {tuple(row[:n]) for row, n in zip(learnt["input_ids"].tolist(), learnt["prompt"], strict=True)}
    newline = {prompt[-1] for prompt in known}
    assert len(newline) == 1 and {prompt[-1] for prompt in given} == newline


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"evaluation.tasks.0.path": "nowhere.jsonl"}, "evaluation.tasks.0.path"),
        ({"evaluation.tasks.0.shots": [8]}, "evaluation.tasks.0.path"),
        ({"evaluation.instructions": "nowhere.jsonl"}, "evaluation.instructions"),
        ({"evaluation.retrieval": 5}, "evaluation.retrieval"),
        ({"evaluation.tasks.0.name": "a/b"}, "evaluation.tasks.0.name"),
        ({"evaluation.generate": 4, "evaluation.prompt": 48, "data.window": 48}, "evaluation.prompt"),
    ],
)
def test_what_can_t_be_asked_is_refused_before_anything_starts(files, overrides, field):
    with pytest.raises(ConfigError) as caught:
        simulation.check_settings(text(files, **overrides))
    assert caught.value.field == field


def test_files_are_read_line_by_line_and_the_wrong_one_is_named(files):
    with pytest.raises(ConfigError, match=r"tasks\.0\.path: .*asked.jsonl.*line 1: no 'choices'"):
        simulation.check_settings(text(files, **{"evaluation.tasks.0.path": str(files / "asked.jsonl")}))
    (files / "asked.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="at least one item"):
        simulation.check_settings(text(files))


def test_two_tasks_have_two_names(files):
    task = {"name": "sums", "path": str(files / "tasks.jsonl")}
    with pytest.raises(ConfigError, match="a name of its own"):
        simulation.check_settings(text(files, **{"evaluation.tasks": [task, task]}))


def test_texts_are_for_texts_and_pairs_for_pairs(files):
    digits = {
        "data": {"source": "digits"},
        "participants": {"models": ["vit-micro"]},
        "student": {"model": "vit-micro"},
    }
    with pytest.raises(ConfigError, match=r"evaluation\.instructions.*it is for text, and the data is image"):
        simulation.check_settings(load({**digits, "evaluation": {"instructions": "x"}}))


def test_groups_and_institutions_by_hand(tmp_path):
    config = load({
        "rounds": 1, "output": str(tmp_path / "run"),
        "data": {"source": "digits", "max_examples": 200},
        "participants": {"models": ["mlp"], "count": 3, "training": TRAINING,
                         "partition": {"test_fraction": 0.2},
                         "devices": [{"flops_per_s": 1e9, "flops_per_joule": 1e9}]},
        "student": {"model": "mlp", "training": TRAINING, "device": {"flops_per_joule": 1e8}},
        "evaluation": {"co2e_g_per_kwh": 3.6e6},
        "methods": [{"name": "fedavg", "specialists": "student"}, "fedmd"],
    })  # fmt: skip
    seen = {}

    class Looks(InProcess):
        """Keeps what the coordinator holds when a round has ended."""

        def close(self, lane, round, *rest):
            closing = super().close(lane, round, *rest)
            seen[self._coordinator._contender] = self._coordinator._desk.learner.logits
            if self._coordinator._contender == "fedavg":
                public, tests = self._coordinator.public, self._coordinator._tests
                seen["right"] = right(self._coordinator._desk.learner, public.test), public.test
                seen["own"] = {
                    k: right(self._coordinator._desk.learner, test).mean() for k, test in tests.items()
                }
            return closing

    def right(learner, examples):
        logits = learner.logits(examples, np.arange(len(examples)))
        return logits.argmax(1) == examples.arrays["labels"]

    result = simulation.run(config, executor=Looks())
    rows = result.measures[result.measures["round"] == 1]
    found = {m: dict(zip(g["name"], g["value"], strict=True)) for m, g in rows.groupby("method")}
    marks, test = seen["right"]
    for digit in range(10):
        expected = marks[test.arrays["labels"] == digit].mean()
        assert found["fedavg"][f"group/{digit}"] == pytest.approx(expected)
    assert len(set(test.arrays["labels"])) == 10
    assert {k: found["fedavg"][f"local/{k}"] for k in range(3)} == pytest.approx(seen["own"])
    assert not any(name.startswith("local/") for name in found["fedmd"])  # it has no student
    assert result.participants.set_index("method").loc["fedmd", "local_score"].between(0, 1).all()

    rounds = result.rounds.set_index(["method", "round"])
    row = rounds.loc[("fedavg", 1)]
    assert found["fedavg"]["energy/participants_j"] == pytest.approx(row["flops_participants"] / 1e9)
    assert found["fedavg"]["energy/coordinator_j"] == pytest.approx(row["flops_coordinator"] / 1e8)
    joules = found["fedavg"]["energy/participants_j"] + found["fedavg"]["energy/coordinator_j"]
    assert found["fedavg"]["energy/co2e_g"] == pytest.approx(joules)  # a gram a joule
    assert math.isfinite(joules) and joules > 0
