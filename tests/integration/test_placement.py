"""Several nodes with GPUs in fractions: all find a place, or who doesn't is named in time."""

import json
import sys
from pathlib import Path

import pytest

NODES = Path(__file__).with_name("nodes.py")


@pytest.fixture(scope="module")
def on_nodes(fedsim_command, configs, tmp_path_factory):
    """Folder and observations of `nodes.py`; see there what is done."""
    folder = tmp_path_factory.mktemp("nodes") / "runs"
    command = fedsim_command.start(configs["digits"], folder, program=(sys.executable, str(NODES)))
    done = command.end(500)
    assert done.status == 0, done.err
    return folder, json.loads((folder / "seen.json").read_text())


@pytest.mark.slow
def test_mixed_fractions_share_gpus_on_two_nodes(on_nodes):
    """0.8 | 0.7 + 0.3 | 0.6 + 0.4 | the coordinator."""
    _, seen = on_nodes
    places = {k: (node, *gpus) for k, (node, gpus, _) in seen["before"].items()}
    assert places["2"] == places["1"]
    assert places["4"] == places["3"]
    node, gpus, _ = seen["coordinator"]
    assert len({*places.values(), (node, *gpus)}) == 4, "four GPUs are in use"
    assert len({node for node, _ in places.values()}) == 2
    for _, gpus, visible in [*seen["before"].values(), seen["coordinator"]]:
        assert len(gpus) == 1
        assert visible == gpus[0], "each sees its own GPU only"


@pytest.mark.slow
def test_results_are_those_of_one_process(on_nodes, digits_run, assert_same_results):
    """With a host killed on the way, and inside the placement group of a trial."""
    folder, _ = on_nodes
    assert_same_results(folder / "mixed", digits_run)
    assert_same_results(folder / "trial", digits_run, ("federated_distillation",))


@pytest.mark.slow
def test_a_new_host_takes_the_place_of_the_dead_one(on_nodes):
    _, seen = on_nodes
    assert seen["after"] == seen["before"]


@pytest.mark.slow
def test_what_does_not_fit_is_named_in_time(on_nodes):
    _, seen = on_nodes
    said, seconds = seen["too much"]
    assert said == (
        "runtime.participant.3.gpus: 0.75 is not valid; expected less, or a larger cluster: participant 3 "
        "(cpus 0.2, gpus 0.75) finds no place beside the others; the cluster has 2 × (2 CPUs, 2 GPUs)"
    )
    assert seconds < 5
    said, seconds = seen["taken"]  # by another job
    assert "participant 2 (cpus 0.2, gpus 0.7) finds no place beside the others" in said
    assert "2 GPUs of which 0 free" in said
    assert seconds < 5


@pytest.mark.slow
def test_nothing_stays_reserved(on_nodes):
    _, seen = on_nodes
    assert seen["held"] == []
    assert seen["held after the trial"] == []


@pytest.mark.slow
def test_a_cluster_may_grow(on_nodes):
    _, seen = on_nodes
    assert seen["grown"] == [5, 3]
    asked_for, got = seen["settled"]
    assert asked_for == 8
    assert got == 4, "what came by the end is used: six GPUs, of which the coordinator has two"
