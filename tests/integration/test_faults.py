"""Processes die and participants fail, and the tables are those of a run in which all went well, or
say what went wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim import simulation

CHAOS = Path(__file__).with_name("chaos.py")
LATE = Path(__file__).with_name("late.py")


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["many", "few"])
def test_killed_actors_change_nothing(hosts, configs, digits_run, assert_same_results, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(CHAOS), str(configs["digits"]), str(folder), hosts]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: len(list(folder.glob("checkpoints/*/round-*.json"))) >= 3, driver)
    os.killpg(driver.pid, signal.SIGKILL)  # the driver too, with the Ray instance that it started
    driver.wait()
    finished = set(folder.glob("checkpoints/*/round-*.json"))
    done = subprocess.run([*command, "resume"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    killed = int(re.search(r"killed (\d+)", done.stdout)[1])
    assert killed >= 5, "too few were killed to show anything"
    assert len(finished) < len(list(folder.glob("checkpoints/*/round-*.json"))), "it was over already"
    assert_same_results(folder, digits_run)


def test_participants_begin_before_the_coordinator(configs, digits_run, assert_same_results, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, str(LATE), str(configs["distil"]), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert_same_results(folder, digits_run, methods=("federated_distillation",))


def wait_for(condition, process, seconds=300):
    ends = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.05)


EVENTS = {
    "participants.participation": 0.6,
    "participants.dropout": 0.2,
    "participants.message_loss": 0.2,
    "rounds": 4,
}


@pytest.fixture(scope="module")
def eventful(configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("events") / "run"
    return simulation.run(fedsim.load(configs["digits"], output=str(folder), **EVENTS))


def test_events_are_recorded_and_counted(eventful):
    people = eventful.participants
    distil = people[people.method == "federated_distillation"]
    assert (distil.groupby("round").size() == 3).all(), "0.6 of five participants are asked"
    assert set(distil.status) == {"ok", "lost", "dropped"}
    dropped = people[people.status == "dropped"]
    assert (dropped[["bytes_up", "bytes_down", "flops"]] == 0).all(axis=None)
    lost = people[people.status == "lost"]
    assert (lost.bytes_up > 0).all(), "what is lost on the way was sent"
    assert (lost.method != "solo").all(), "who sends nothing loses nothing"
    rounds = eventful.rounds[eventful.rounds["round"] > 0]
    ok = people[(people.status == "ok") & (people.bytes_up > 0)].groupby(["method", "round"]).size()
    for row in rounds[rounds.planned > 0].itertuples():
        expected = 0 if row.algorithm == "solo" else ok.get((row.method, row.round), 0)
        assert row.delivered == expected


def test_all_methods_meet_the_same_events(eventful):
    people = eventful.participants
    fates = people[people.method != "solo"].pivot(
        index=["round", "participant"], columns="method", values="status"
    )
    assert (fates["fedavg"] == fates["federated_distillation"]).all()


def test_events_resume_and_repeat(eventful, configs, assert_same_results, tmp_path):
    again = fedsim.load(configs["digits"], output=str(tmp_path / "run"), **EVENTS)
    assert_same_results(simulation.run(again).folder, eventful.folder)


def test_a_deadline_leaves_the_slow_behind(configs, tmp_path):
    links = [{"up_mbps": 100}, {"up_mbps": 0.01}]
    config = fedsim.load(
        configs["distil"],
        output=str(tmp_path / "run"),
        **{"participants.links": links, "participants.deadline_s": 0.5},
    )
    result = simulation.run(config)
    status = result.participants.groupby("participant").status.agg(set)
    assert status[0] == status[2] == status[4] == {"ok"}
    assert status[1] == status[3] == {"late"}
    rounds = result.rounds[result.rounds["round"] > 0]
    assert (rounds.delivered == 3).all()
    assert np.allclose(rounds.virtual_s, 0.5 + rounds.flops_coordinator / 1e12)


def test_a_silent_round_leaves_the_student_as_it_was(configs, tmp_path):
    config = fedsim.load(configs["distil"], output=str(tmp_path / "run"), **{"participants.deadline_s": 1e-6})
    result = simulation.run(config)
    assert (result.rounds.score == result.rounds.score.iloc[0]).all()
    assert (result.rounds.delivered == 0).all()
