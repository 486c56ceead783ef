"""A machine is lost in the middle of a run: what lay on it is made again, or the run ends and says why."""

import json
import sys
from pathlib import Path

import pytest

LOST = Path(__file__).with_name("lost.py")


@pytest.fixture(scope="module")
def losing(fedsim_command, configs, tmp_path_factory):
    """`losing("spare")`: folder and observations of `lost.py`; see there what is done."""

    def lose(room):
        folder = tmp_path_factory.mktemp(room) / "runs"
        command = fedsim_command.start(configs["digits"], folder, room, program=(sys.executable, str(LOST)))
        done = command.end(500)
        assert done.status == 0, done.err
        return folder, json.loads((folder / "seen.json").read_text())

    return lose


@pytest.fixture(scope="module")
def with_spare(losing):
    return losing("spare")


@pytest.fixture(scope="module")
def in_vain(losing):
    return losing("vain")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["delivered", "opened"])
def test_messages_are_made_again_that_a_machine_took_along(when, with_spare, digits_run, assert_same_results):
    folder, seen = with_spare
    assert seen[when]
    assert_same_results(folder / when, digits_run, ("fedavg",))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["delivered", "opened"])
def test_a_run_ends_that_no_machine_has_room_for(when, in_vain):
    _, seen = in_vain
    said, seconds = seen[when]
    assert said.startswith("a machine was lost and what is left can't hold the run: the cluster has 1 × (")
    assert said.endswith("; the run can be resumed")
    assert seconds < 60


@pytest.mark.slow
def test_it_goes_on_when_there_is_a_machine_again(in_vain, digits_run, assert_same_results):
    folder, _ = in_vain
    assert_same_results(folder / "vain", digits_run, ("fedavg",))
