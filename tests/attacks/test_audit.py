"""What is asked about a run, how shadows are drawn, and a whole attack."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsim import events, results, simulation
from fedsim.attacks import audit, run
from fedsim.errors import ConfigError
from fedsim.loading import load

TREE = {
    "rounds": 1,
    "data": {"source": "digits", "max_examples": 300, "split": {"test": 0.3}},
    "participants": {
        "count": 2,
        "models": ["mlp"],
        "partition": {"alpha": 0.5, "test_fraction": 0.2},
        "training": {"steps": 2, "batch_size": 8},
    },
    "student": {"model": "mlp", "training": {"steps": 2}},
    "methods": [{"name": "federated_distillation", "weights": "uniform"}, "solo", "centralized"],
    "runtime": {"executor": "in_process"},
}


@pytest.fixture(scope="module")
def asked() -> audit.Audit:
    return audit.prepare(load(TREE), "federated_distillation")


def test_as_many_members_as_others_of_each_label(asked: audit.Audit):
    data = asked.federation
    for question, shard in zip(asked.questions, data.shards, strict=True):
        keys, c = question.examples.keys, question.members
        assert c > 10 and len(keys) == 2 * c == len(set(keys.tolist()))
        assert set(keys[:c]) <= set(shard.train.keys)
        assert not set(keys[c:]) & {k for s in data.shards for k in s.train.keys}
        labels = question.examples.arrays["labels"]
        assert sorted(labels[:c]) == sorted(labels[c:])
        assert sorted([*keys[:c], *question.rest.keys]) == sorted(shard.train.keys)
    theirs = [set(q.examples.keys.tolist()) for q in asked.questions]
    assert not theirs[0] & theirs[1]


def test_every_example_is_in_half_of_the_shadows(asked: audit.Audit):
    inside = np.stack([np.concatenate(audit.draw(asked, k)) for k in range(6)])
    assert (inside.sum(0) == 3).all()
    assert not np.array_equal(inside[0], inside[2]) and np.array_equal(inside[0], ~inside[1])
    assert all((a == b).all() for a, b in zip(audit.draw(asked, 3), audit.draw(asked, 3), strict=True))


def test_the_shard_of_a_shadow_is_as_large_and_holds_whom_it_should(asked: audit.Audit):
    for question, inside, shard in zip(
        asked.questions, audit.draw(asked, 0), asked.federation.shards, strict=True
    ):
        drawn = question.shard(inside, shard.test)
        assert len(drawn.train) == len(shard.train)
        assert set(question.examples.keys[inside]) <= set(drawn.train.keys)
        assert not set(question.examples.keys[~inside]) & set(drawn.train.keys)


def test_an_attack_that_knows_everything_is_seen_to(asked: audit.Audit):
    """Rows from made-up signals: one target tells all, one nothing."""
    rng = np.random.default_rng(0)
    member, n = asked.member, len(asked.member)

    def observed(inside: np.ndarray) -> audit.Observed:
        open_ = {"loss": inside + 0.01 * rng.random(n), "phi": inside + 0.01 * rng.random(n)}
        return {"student": open_, "responses": {"loss": rng.random(n), "phi": rng.random(n)}}

    shadows = [observed(np.concatenate(audit.draw(asked, k)).astype(float)) for k in range(4)]
    rows = {(r["target"], r["attack"]): r for r in audit.judge(asked, observed(member * 1.0), shadows, 2.0)}
    assert len(rows) == 6
    for attack in ("loss", "lira_online", "lira_offline"):
        told, blind = rows["student", attack], rows["responses", attack]
        assert told["auc"] == told["tpr_at_0001"] == 1 and told["epsilon"] == 2
        assert blind["auc_low"] < 0.5 < blind["auc_high"]
        assert all(row.keys() == results.ATTACKS.keys() for row in (told, blind))


def test_a_run_is_attacked_and_leaves_a_table(tmp_path: Path):
    folder = simulation.run(load(TREE, output=str(tmp_path / "run"))).folder
    rows = run.attack(folder, shadows=2)
    assert {(r["target"], r["attack"]) for r in rows} == {
        (target, attack)
        for target in ("student", "responses", "specialists")
        for attack in ("loss", "lira_online", "lira_offline")
    }
    for written, row in zip(results.rows(folder / "attacks.parquet"), rows, strict=True):
        assert np.isnan(written.pop("epsilon")) and np.isnan(row["epsilon"])
        assert written == {column: row[column] for column in written}
    assert len(run.table(rows).splitlines()) == 10
    told = results.rows(folder / "labels.parquet")
    assert [(r["participant"], r["estimate"]) for r in told] == [
        (k, name) for name in ("answers", "ratio", "guess") for k in (0, 1)
    ]
    assert all(0 <= r["error"] <= 1 and r.keys() == results.LABELS.keys() for r in told)
    assert run.label_table(told).splitlines()[-1].endswith("–")
    assert {r["target"] for r in run.attack(folder, "solo", shadows=0)} == {"specialists"}
    assert results.rows(folder / "labels.parquet") == []  # nobody sent anything
    for wrong in ({"contender": "centralized"}, {"shadows": 3}):
        with pytest.raises(ConfigError):
            run.attack(folder, **wrong)


def test_who_was_never_asked_gave_nothing_away(tmp_path: Path):
    """One of three works a round: what is judged is about those who did."""
    tree = {**TREE, "rounds": 2, "participants": {**TREE["participants"], "count": 3, "participation": 0.34}}
    config = load(tree, output=str(tmp_path / "run"))
    folder = simulation.run(config).folder
    worked = {k for number in (1, 2) for k in events.active(config, number)}
    assert 0 < len(worked) < 3
    questions = audit.prepare(config, "federated_distillation").questions
    members = {
        "student": sum(q.members for q in questions),
        "specialists": sum(q.members for q in questions if q.participant in worked),
    }
    members["responses"] = members["specialists"]
    rows = run.attack(folder, shadows=2)
    loss = {r["target"]: r["members"] for r in rows if r["attack"] == "loss"}
    assert loss == members
    for row in rows:
        assert 0 < row["members"] == row["others"] <= members[row["target"]] and 0 <= row["auc"] <= 1


def test_a_run_in_which_nobody_can_be_asked_about_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = simulation.run(load(TREE, output=str(tmp_path / "run"))).folder
    prepare = audit.prepare
    monkeypatch.setattr(audit, "prepare", lambda *a: replace(prepare(*a), questions=()))
    with pytest.raises(ConfigError, match="to test on"):
        run.attack(folder, shadows=0)


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="finished run"):
        run.attack(tmp_path)
