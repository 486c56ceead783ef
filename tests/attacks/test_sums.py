"""What sums over examples tell of them, against the hat matrix of a regression."""

from pathlib import Path

import numpy as np
import pytest

from fedsim import simulation
from fedsim.attacks import metrics, run
from fedsim.attacks.sums import known, square
from fedsim.knowledge.moments import unit
from fedsim.loading import load

D = 24


def read(n: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, D)))


def test_it_is_the_leverage_of_an_example_in_a_fit_of_its_own():
    """The diagonal of the hat matrix, by a QR decomposition, in parts of its mean: columns ÷ rows."""
    members = read(200, 0)
    q, _ = np.linalg.qr(members)
    np.testing.assert_allclose(-known(square(members), members), (q**2).sum(1) / (D / 200), rtol=2e-3)


@pytest.mark.parametrize(("n", "low", "high"), [(12, 1.0, 1.0), (60, 0.75, 0.98), (6000, 0.5, 0.6)])
def test_few_examples_are_told_and_many_are_not(n: int, low: float, high: float):
    members, others = read(n, 1), read(2000, 2)
    scores = known(square(members), np.concatenate([members, others]))
    told = metrics.auc(scores[:n], scores[n:])
    assert low <= told.value <= high


def test_a_run_with_a_readout_is_attacked_at_its_sums_and_at_its_last_answers(tmp_path: Path):
    training = {"steps": 6, "batch_size": 16}
    config = load(
        {
            "rounds": 3,
            "output": str(tmp_path / "run"),
            "data": {"source": "digits", "max_examples": 500, "split": {"test": 0.3}},
            "participants": {
                "count": 3,
                "models": ["vit-micro"],
                "partition": {"alpha": 0.5, "test_fraction": 0.2},
                "training": training,
            },
            "student": {"model": "vit-micro", "training": training},
            "methods": [{"name": "federated_distillation", "readout": {}}],
            "runtime": {"executor": "in_process"},
        }
    )
    rows = {(r["target"], r["attack"]): r for r in run.attack(simulation.run(config).folder, shadows=0)}
    assert set(rows) == {
        ("specialists", "loss"),
        ("responses", "loss"),
        ("student", "loss"),
        ("sums", "leverage"),
        ("sum_of_all", "leverage"),
    }
    assert rows["sums", "leverage"]["auc"] > rows["sum_of_all", "leverage"]["auc"] > 0.5
    assert len({row["members"] for row in rows.values()}) == 1
