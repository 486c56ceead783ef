"""Membership inference where a model is overfitted, with and without differential privacy."""

from pathlib import Path

import numpy as np
import pytest

from fedsim import simulation
from fedsim.attacks import audit, run
from fedsim.loading import load
from fedsim.progress import Quiet
from fedsim.runtime.shadows import gather

TREE = {
    "rounds": 2,
    "data": {"source": "digits", "split": {"test": 0.3, "proxy": 0.1}},
    "participants": {
        "count": 8,
        "models": ["mlp-wide"],
        "partition": {"kind": "iid", "test_fraction": 0.3},
        "training": {
            "steps": 100,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "augment": False,
            "weight_decay": 0,
        },
    },
    "student": {"model": "mlp", "training": {"steps": 1}},
    "methods": ["solo"],
    "runtime": {"executor": "in_process"},
}


@pytest.mark.slow
def test_shadows_on_ray_are_those_of_one_process(clean_process):
    few = {"participants.count": 2, "participants.training.steps": 3, "methods": ["federated_distillation"]}
    asked = audit.prepare(load(TREE, **few, **{"participants.models": ["mlp"]}), "federated_distillation")
    there = gather(asked, 2, Quiet())
    for k, observed in enumerate(there):
        here = audit.shadow(asked, k)
        assert observed.keys() == here.keys() == {"student", "responses", "specialists"}
        for target, signals in here.items():
            for name, values in signals.items():
                assert np.array_equal(values, observed[target][name])


@pytest.mark.slow
def test_overfitted_specialists_give_their_data_away(tmp_path: Path):
    rows = run.attack(simulation.run(load(TREE, output=str(tmp_path / "run"))).folder, shadows=4)
    found = {row["attack"]: row for row in rows}
    assert found["loss"]["auc_low"] > 0.6
    assert found["lira_online"]["auc"] > found["loss"]["auc"]


@pytest.mark.slow
def test_with_a_small_epsilon_no_attack_is_above_chance(tmp_path: Path):
    private = {"participants.privacy": {"epsilon": 2.0}, "output": str(tmp_path / "run")}
    rows = run.attack(simulation.run(load(TREE, **private)).folder, shadows=4)
    assert {row["attack"] for row in rows} == {"loss", "lira_online", "lira_offline"}
    for row in rows:
        assert 1.9 < row["epsilon"] <= 2
        assert row["auc_low"] <= 0.5
