"""What ε is, by published values and by the definition; what a config may ask for; a run that spends it."""

import math

import numpy as np
import pytest
from scipy import optimize, special

from fedsim import privacy, simulation
from fedsim.config import Privacy, RunConfig
from fedsim.errors import ConfigError
from fedsim.loading import load
from tests.power_cut import Dies


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "published"), [(0.04, 1.5, 2250, 7.3291), (0.01, 0.7, 120, 3.2393)]
)
def test_epsilon_matches_published_values(rate: float, noise: float, steps: int, published: float):
    assert privacy.spent(Privacy(noise=noise), noise, rate, steps) == pytest.approx(published, abs=1e-3)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Exact ε of a μ-Gaussian mechanism (Balle and Wang, arXiv 1805.06530, theorem 8)."""

    def excess(epsilon: float) -> float:
        return (
            special.ndtr(-epsilon / mu + mu / 2)
            - math.exp(epsilon) * special.ndtr(-epsilon / mu - mu / 2)
            - delta
        )

    return optimize.brentq(excess, 0, 50)


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 10), (2.0, 1), (20.0, 30)])
def test_without_sampling_it_is_that_of_the_gaussian_mechanism(noise: float, steps: int):
    exact = gaussian_epsilon(steps**0.5 / noise, 1e-5)
    prv = privacy.spent(Privacy(noise=noise, accountant="prv"), noise, 1.0, steps)
    rdp = privacy.spent(Privacy(noise=noise), noise, 1.0, steps)
    assert prv == pytest.approx(exact, abs=0.02)  # the accountant's own tolerance is 0.01
    assert exact < rdp < 1.3 * exact


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_noise_is_solved_for_the_target(accountant: str, epsilon: float):
    wanted = Privacy(epsilon=epsilon, accountant=accountant)
    noise = privacy.noise_for(wanted, 0.1, 100)
    assert 0.98 * epsilon < privacy.spent(wanted, noise, 0.1, 100) <= epsilon
    assert privacy.spent(wanted, 0.95 * noise, 0.1, 100) > epsilon


def test_nothing_trained_spends_nothing():
    assert privacy.spent(Privacy(noise=1.0), 1.0, 0.1, 0) == 0
    assert privacy.noise_for(Privacy(epsilon=1.0), 0.1, 0) == 0


# Configs ------------------------------------------------------------------------------------------


def config(**changes) -> RunConfig:
    tree = {
        "rounds": 2,
        "data": {"source": "digits", "max_examples": 240},
        "participants": {
            "count": 2,
            "models": ["mlp"],
            "partition": {"kind": "iid"},
            "training": {"steps": 4, "batch_size": 8},
            "privacy": {"epsilon": 4.0},
        },
        "student": {"model": "mlp", "training": {"steps": 4}},
        "methods": [{"name": "federated_distillation", "weights": "uniform"}],
        "runtime": {"executor": "in_process"},
    }
    return load(tree, **changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"participants.privacy": {}}, "participants.privacy"),
        ({"participants.privacy": {"epsilon": 1, "noise": 1}}, "participants.privacy"),
        ({"participants.privacy.epsilon": 0}, "participants.privacy.epsilon"),
        ({"participants.privacy": {"noise": -1}}, "participants.privacy.noise"),
        ({"participants.privacy.delta": 1}, "participants.privacy.delta"),
        ({"participants.privacy.clip": 0}, "participants.privacy.clip"),
        ({"participants.privacy.accountant": "moments"}, "participants.privacy.accountant"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict, field: str):
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "method",
    [
        {"name": "federated_distillation", "weights": "density", "confidence": 1},
        {"name": "federated_distillation", "weights": "experience", "confidence": 1},
        {"name": "federated_distillation", "weights": "uniform", "prototypes": {"weight": 1}},
        {"name": "fedproto", "specialists": "student"},
    ],
)
def test_what_is_made_of_private_examples_without_noise_is_refused(method: dict):
    wrong = config(methods=[method])
    with pytest.raises(ConfigError, match=r"participants\.privacy"):
        simulation.check_settings(wrong)


def test_an_epsilon_that_no_noise_reaches_is_refused():
    with pytest.raises(ConfigError, match="no noise is enough") as caught:
        privacy.check_shards(config(**{"participants.privacy.epsilon": 1e-7}), [60, 80])
    assert caught.value.field == "participants.privacy.epsilon"
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_a_shard_is_refused():
    with pytest.raises(ConfigError, match="at most 7") as caught:
        privacy.check_shards(config(), [7, 80])
    assert caught.value.field == "participants.training.batch_size"
    privacy.check_shards(config(), [8, 80])


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_tells_what_each_participant_has_spent(tmp_path):
    methods = [{"name": "federated_distillation", "weights": "uniform"}, "fedavg"]
    settings = config(**{"output": str(tmp_path / "run"), "methods": methods})
    table = simulation.run(settings).participants
    wanted = settings.participants.privacy
    assert len(table) == 8 and (table.status == "ok").all()
    for row in table.itertuples():
        rate = 8 / row.examples
        noise = privacy.noise_for(wanted, rate, 8)
        assert row.epsilon == privacy.spent(wanted, noise, rate, 4 * row.round)
    last = table[table["round"] == 2].epsilon
    assert (last <= 4).all() and (last > 3.9).all()


def test_who_is_not_asked_spends_nothing(tmp_path):
    changes = {"participants.count": 4, "participants.participation": 0.5, "rounds": 3}
    settings = config(**changes, **{"output": str(tmp_path / "run"), "participants.privacy": {"noise": 2.0}})
    table = simulation.run(settings).participants.sort_values(["participant", "round"])
    for _, rows in table.groupby("participant"):
        rate, times = 8 / rows.examples.iloc[0], np.arange(1, len(rows) + 1)
        expected = [privacy.spent(Privacy(noise=2.0), 2.0, rate, int(4 * k)) for k in times]
        assert rows.epsilon.tolist() == expected
    assert len(table) == 6


def test_a_run_that_is_cut_off_draws_the_same_noise_and_spends_the_same(tmp_path):
    """And with noisy votes on top, whose cost is remembered at the coordinator."""
    methods = [{"name": "federated_distillation", "pate": {"noise": 2.0}}]
    changes = {"rounds": 3, "participants.privacy": {"noise": 1.5}, "methods": methods}
    whole = simulation.run(config(**changes, output=str(tmp_path / "whole")))
    parts = config(**changes, output=str(tmp_path / "parts"))
    with pytest.raises(OSError, match="power cut"):
        simulation.run(parts, executor=Dies())
    mended = simulation.run(parts, resume=True)
    for table in ("participants", "measures"):
        one, other = (getattr(result, table) for result in (whole, mended))
        plain = [column for column in one.columns if column not in ("wall_s", "peak_memory_mib")]
        assert one[plain].equals(other[plain]), table
    assert (mended.participants.groupby("participant").epsilon.diff().dropna() > 0).all()
    spent = mended.measures[mended.measures.name == "privacy/epsilon"].value
    assert len(spent) == 3 and (np.diff(spent) > 0).all()
    files = sorted(whole.folder.rglob("*.safetensors"))
    assert {"student", "participant-00000", "participant-00001"} <= {file.parent.name for file in files}
    for file in files:
        assert file.read_bytes() == (mended.folder / file.relative_to(whole.folder)).read_bytes()


def test_a_run_without_privacy_has_none_to_tell(tmp_path):
    settings = config(**{"output": str(tmp_path / "run"), "participants.privacy": None, "rounds": 1})
    assert simulation.run(settings).participants.epsilon.isna().all()
