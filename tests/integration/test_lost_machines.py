"""A machine is lost in the middle of a run: what lay on it is made again, or it is said that nothing can be."""

import json
import sys
from pathlib import Path

import pytest

LOST = Path(__file__).with_name("lost.py")


@pytest.fixture(scope="module")
def on_lost(fedsim_command, configs, tmp_path_factory):
    """Folder and observations of `lost.py`; see there what is done."""
    folder = tmp_path_factory.mktemp("lost") / "runs"
    command = fedsim_command.start(configs["digits"], folder, program=(sys.executable, str(LOST)))
    done = command.end(500)
    assert done.status == 0, done.err
    return folder, json.loads((folder / "seen.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["delivered", "opened"])
def test_messages_are_made_again_that_a_machine_took_along(when, on_lost, digits_run, assert_same_results):
    folder, seen = on_lost
    assert seen[when]
    assert_same_results(folder / when, digits_run, ("fedavg",))
