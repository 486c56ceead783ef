"""The same seed gives the same results, bit for bit, wherever and however often a run executes."""

import pytest

import fedsim
from fedsim import simulation


@pytest.mark.slow  # the fast ones compare with the same run, on Ray
def test_twice_in_a_row(configs, digits_run, assert_same_results, clean_process, tmp_path):
    """Here in a process that may have run others before; the reference had one of its own."""
    for name in ("one", "two"):
        fedsim.run(fedsim.load(configs["digits"], output=str(tmp_path / name)))
        assert_same_results(tmp_path / name, digits_run)


@pytest.mark.parametrize(
    ("actors", "per_actor", "lanes"),
    [
        pytest.param(1, 5, 1, marks=pytest.mark.slow),
        (2, 3, 1),
        pytest.param(2, 3, 2, marks=pytest.mark.slow),
        pytest.param(5, 1, 1, marks=pytest.mark.slow),
    ],
    ids=["1 actor", "2 actors", "2 actors, 2 lanes", "5 actors"],
)
def test_on_ray_as_in_one_process(
    actors, per_actor, lanes, fedsim_command, configs, digits_run, assert_same_results, tmp_path
):
    fedsim_command(
        "run", configs["digits"], f"output={tmp_path / 'run'}", "runtime.executor=ray",
        f"runtime.participants_per_actor={per_actor}", f"runtime.parallel_methods={lanes}",
    )  # fmt: skip
    assert_same_results(tmp_path / "run", digits_run)


def test_text_with_a_public_start_on_ray_as_in_one_process(
    configs, text_run, assert_same_results, clean_process, tmp_path
):
    simulation.run(fedsim.load(configs["text"], output=str(tmp_path / "run")))
    assert_same_results(tmp_path / "run", text_run)


def test_another_seed_gives_other_results(configs, digits_run, clean_process, tmp_path):
    """Or the comparisons above would prove nothing."""
    other = fedsim.run(fedsim.load(configs["distil"], output=str(tmp_path / "run"), seed=1)).rounds
    rounds = simulation.Result(digits_run).rounds
    same = rounds[rounds.method == "federated_distillation"].loss.to_numpy() == other.loss.to_numpy()
    assert not same.any()
