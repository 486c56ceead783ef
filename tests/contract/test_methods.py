"""What every registered method promises: two rounds of a tiny run of every modality."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fedsim import loading, results, simulation
from fedsim.config import RunConfig, Settings
from fedsim.disk.checkpoints import PARTS, Checkpoints
from fedsim.executor import InProcess, Opening
from fedsim.methods import METHODS
from fedsim.methods.base import Method
from fedsim.progress import Quiet
from fedsim.results import Row
from fedsim.types import METRICS
from tests.opening import opening

ROUNDS, PEOPLE = 2, 3
MODEL = {
    "text": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "image": {
        "model_type": "vit",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 4,
    },
}
ENCODER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MODEL["image_text"] = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": {**ENCODER, "projection_dim": 16},
    "vision_config": {**ENCODER, "projection_dim": 16, "patch_size": 4},
}
SHORT = {"prompt": 4, "longest": 6, "sequences": 8, "batch": 4}
"""For windows as short as these."""
CONTENDERS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in METHODS},
    "fl_minillm": {"name": "fl_minillm", **SHORT},
    "seq_kd": {"name": "seq_kd", **SHORT},
    "fedavg_8bit": {"name": "fedavg", "bits": 8},
    "fedavg_lora": {"name": "fedavg", "adapter": {"rank": 2}},
}
"""Every method as it is, and variants that take another way through it."""


def kind(name: str) -> type[Method]:
    return METHODS[CONTENDERS[name]["name"]]


PAIRS = [(reads, name) for name in CONTENDERS for reads in METRICS if reads in kind(name).modalities]
EACH = pytest.mark.parametrize("modality, name", PAIRS)
EVERY = pytest.mark.parametrize("name", CONTENDERS)


def simplest(name: str) -> str:
    """Images, where the method works on them: they are quickest."""
    return "image" if "image" in kind(name).modalities else min(kind(name).modalities)


def tiny(folder: Path, modality: str, name: str) -> RunConfig:
    """Everybody has one small architecture and the proxy set its answers, so that any method can run."""
    folder.mkdir(exist_ok=True)
    model = folder / "config.json"
    model.write_text(json.dumps(MODEL[modality]))
    data: dict[str, Any] = {"source": "digits", "max_examples": 120, "proxy_labelled": True}
    if modality == "image_text":
        data["modality"] = modality
    if modality == "text":
        # Files named by their domain; enough different documents that nobody's text is too short.
        for domain in range(3):
            lines = (
                f"document {n} of domain {domain}: {n * n} {n % 7} {domain * n}.\n\n" for n in range(900)
            )
            (folder / f"domain{domain}.txt").write_text("".join(lines))
        data = {"source": "files", "path": str(folder / "*.txt"), "modality": "text", "window": 16}
        data["vocabulary"] = 300
    training = {"steps": 2, "batch_size": 4, "learning_rate": 0.01}
    return loading.load(
        {
            "name": "contract",
            "rounds": ROUNDS,
            "output": str(folder / "run"),
            "data": data,
            "participants": {
                "count": PEOPLE,
                "models": [str(model)],
                "training": training,
                "partition": {"alpha": 5.0, "minimum": 5},
            },
            "student": {"model": str(model), "training": training},
            "pretraining": {"steps": 1, "batch_size": 4},
            "methods": [{**CONTENDERS[name], "label": name, "specialists": "student"}],
        }
    )


class Strict(InProcess):
    """On Ray hosts go on while the round before is scored and saved: none of that may change."""

    def open(self, lane: int, round: int) -> Opening:
        with opening(self._coordinator):
            return super().open(lane, round)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """`ran(modality, name)` → the folder of that run, made once."""
    made: dict[tuple[str, str], Path] = {}

    def run(modality: str, name: str) -> Path:
        if (modality, name) not in made:
            config = tiny(tmp_path_factory.mktemp(f"{modality}-{name}"), modality, name)
            made[modality, name] = simulation.run(config, executor=Strict()).folder
        return made[modality, name]

    return run


class Found(NamedTuple):
    """The rows of a round in the tables."""

    round: Row
    participants: list[Row]
    messages: list[Row]
    sections: list[Row]
    measures: list[Row]


def records(folder: Path, name: str) -> dict[int, Found]:
    kept = Checkpoints(folder, name)
    parts = (results.read_part(part) for part in kept.parts())
    return {
        row["round"]: Found(row, **{table: part[table].to_pylist() for table in PARTS})
        for row, part in zip(kept.rounds(), parts, strict=True)
    }


def sent(rows: list[Row], direction: str) -> int:
    return sum(row["bytes"] for row in rows if row["direction"] == direction)


@EACH
def test_rows_have_exactly_the_documented_columns(ran, modality: str, name: str):
    found = records(ran(modality, name), name)
    method = kind(name)
    assert list(found) == ([0, 1, 2] if method.trains_student else [1, 2])
    for round, record in found.items():
        tables = {"rounds": [record.round], **{table: getattr(record, table) for table in PARTS}}
        for table, rows in tables.items():
            assert all(row.keys() == results.TABLES[table].keys() for row in rows), table
            assert not any(value is None for row in rows for value in row.values()), table
            assert all((row["method"], row["round"]) == (name, round) for row in rows)
        asked = PEOPLE if method.uses_participants and round else 0
        assert [row["participant"] for row in record.participants] == list(range(asked))
        assert record.round["planned"] == asked


@EACH
def test_bytes_are_those_of_the_messages(ran, modality: str, name: str):
    total = 0
    for record in records(ran(modality, name), name).values():
        row = record.round
        for direction in ("up", "down"):
            column = f"bytes_{direction}"
            assert row[column] == sent(record.messages, direction)
            assert row[column] == sum(p[column] for p in record.participants)
            assert row[column] == sent(record.sections, direction)
        for person in record.participants:
            mine = [m for m in record.messages if m["participant"] == person["participant"]]
            assert person["bytes_up"] == sent(mine, "up")
            assert person["bytes_down"] == sent(mine, "down")
            assert len({m["direction"] for m in mine}) == len(mine)  # at most one each way
        assert all(m["bytes"] > 0 and m["kind"] for m in record.messages)
        total += row["bytes_up"] + row["bytes_down"]
    talks = kind(name).expect is not Method.expect
    assert (total > 0) == talks


@EACH
def test_everything_is_delivered_and_counted(ran, modality: str, name: str):
    found = records(ran(modality, name), name)
    for round in range(1, ROUNDS + 1):
        row = found[round].round
        talks = kind(name).expect is not Method.expect
        assert row["delivered"] == (PEOPLE if talks else 0)
        assert {p["status"] for p in found[round].participants} <= {"ok"}
        assert {m["status"] for m in found[round].messages} <= {"delivered"}
        flops = row["flops_participants"] + row["flops_coordinator"]
        assert flops > 0
        assert row["flops_participants"] == sum(p["flops"] for p in found[round].participants)
        assert row["virtual_s"] >= max(
            (p["down_s"] + p["compute_s"] + p["up_s"] for p in found[round].participants), default=0.0
        )
        assert row["virtual_s"] > 0


@EACH
def test_the_last_round_has_a_score(ran, modality: str, name: str):
    folder = ran(modality, name)
    row = records(folder, name)[ROUNDS].round
    assert math.isfinite(row["score"])
    assert row["score"] > 1 if modality == "text" else 0 <= row["score"] <= 1
    assert row["metric"] == METRICS[modality].name
    summary = json.loads((folder / "summary.json").read_text())
    expected = [name] if kind(name).trains_student else [f"{name}_best", f"{name}_mean"]
    assert [line["contender"] for line in summary] == expected
    assert summary[-1]["score"] == pytest.approx(row["score"])
    assert (folder / "student").exists() == kind(name).trains_student


@EACH
def test_a_round_changes_the_models(ran, modality: str, name: str):
    # Nothing else would notice a method that trains nobody.
    found = records(ran(modality, name), name)
    if kind(name).trains_student:
        losses = [found[round].round["loss"] for round in (0, 1, 2)]
    else:
        losses = [p["loss"] for p in found[2].participants]
    assert all(map(math.isfinite, losses))
    assert len(set(losses)) == 3


@EVERY
def test_the_same_seed_gives_the_same_run(ran, name: str, tmp_path: Path):
    first = records(ran(simplest(name), name), name)
    config = tiny(tmp_path, simplest(name), name).model_copy(update={"output": str(tmp_path / "again")})
    again = records(simulation.run(config, executor=InProcess()).folder, name)
    assert decided(first) == decided(again)


class Stops(Quiet):
    """The driver dies after the first round."""

    def round(self, row: Row, rounds: int) -> None:
        raise OSError("power cut")


@EVERY
def test_a_run_that_is_resumed_is_the_same_run(ran, name: str, tmp_path: Path):
    config = tiny(tmp_path, simplest(name), name).model_copy(update={"output": str(tmp_path / "resumed")})
    with pytest.raises(OSError, match="power cut"):
        simulation.run(config, executor=InProcess(), progress=Stops())
    folder = simulation.run(config, resume=True, executor=InProcess()).folder
    assert decided(records(folder, name)) == decided(records(ran(simplest(name), name), name))


def decided(found: dict[int, Found]) -> str:
    """All that the seed decides of a run; not what was measured, nor the model's path, in its folder."""
    measured = {"wall_s", "peak_memory_mib", "model"}
    rows = [row for r in found.values() for row in (r.round, *r.participants, *r.messages)]
    return repr([{k: v for k, v in row.items() if k not in measured} for row in rows])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_takes_no_unknown_setting(name: str):
    method = METHODS[name]
    assert issubclass(method, Method)
    assert len(__import__(method.__module__, fromlist=["x"]).__doc__.splitlines()) >= 2
    assert issubclass(method.Settings, Settings)
    assert method.Settings() is not None  # every setting has a default
    with pytest.raises(ValueError, match="no_such_setting"):
        method.Settings(no_such_setting=1)
