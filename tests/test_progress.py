"""What a person sees of a sweep, on a terminal and in a log."""

import io
import sys
import time

import pytest
import yaml

from fedsim import contender, progress, simulation, sweeps
from fedsim.executor import InProcess
from fedsim.loading import load
from fedsim.progress import Quiet, Trials, duration
from fedsim.results import Row
from fedsim.sweeps import states


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """`clock(120)`: so many seconds have passed."""
    passed = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: passed[0])
    return lambda seconds: passed.__setitem__(0, seconds)


def test_a_run_in_which_nobody_worked_has_a_closing_line():
    assert progress.table([]).startswith("no contender has a score")


def test_a_log_has_a_line_of_how_far_the_trials_are(clock, capsys):
    shown = Trials(total=4, done=1)
    shown.running(2)
    shown.working(10, 40)  # an earlier attempt's
    assert capsys.readouterr().err == "[   0.0 s] 1 of 4 trials are done already\n"
    clock(60)
    shown.working(10, 40)
    clock(120)
    shown.working(15, 40)  # five in two minutes: 25 take ten
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "[  60.0 s] 1/4 trials, 2 running, 10 of 40 rounds",
        "[ 120.0 s] 1/4 trials, 2 running, 15 of 40 rounds, about 10 min left",
    ]
    assert shown.pause == 60


def test_a_terminal_has_a_bar_and_lines_only_of_trials_that_end(monkeypatch):
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    shown = Trials(total=2)
    shown.working(0, 8)
    shown.working(3, 8)
    shown.ended("first: accuracy 0.9")
    shown.close()
    seen = screen.getvalue()
    assert "0/2 trials, 0 running, 3 of 8 rounds, about" in seen
    assert "1/2 first: accuracy 0.9\n" in seen
    assert not [line for line in seen.splitlines() if line.startswith("[") and "rounds" in line]


def test_rounds_of_all_contenders_count_and_the_start_does_not(tmp_path):
    base = {
        "rounds": 2,
        "data": {"source": "digits", "max_examples": 120},
        "participants": {"count": 2, "models": ["vit-micro"], "partition": {"minimum": 2}},
        "student": {"model": "vit-micro"},
        "methods": ["fedavg", "centralized"],
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": base, "space": {"seed": [0]}, "output": str(tmp_path / "out")}))
    (trial,) = sweeps.expand(sweeps.load(path))
    assert states.rounds(trial) == (0, 4)
    simulation.run(trial.config, progress=Quiet())
    assert states.rounds(trial) == (4, 4)
    (trial.config.folder / "checkpoints" / "fedavg" / "round-0002.json").unlink()
    assert states.rounds(trial) == (3, 4)


@pytest.mark.parametrize("seconds, text", [(12.4, "12 s"), (100, "2 min"), (3000, "50 min"), (9000, "2.5 h")])
def test_times_are_for_people(seconds, text):
    assert duration(seconds) == text


class Slow(Quiet):
    def round(self, row: Row, rounds: int) -> None:
        time.sleep(0.3)


def test_the_seconds_of_rounds_add_up_to_those_of_the_run(tmp_path, monkeypatch):
    """Also those in which a round waits until the last but one is told: it has begun."""
    monkeypatch.setattr(contender, "APART_S", 0.0)  # each has a checkpoint, and is told after it
    training = {"steps": 1, "batch_size": 8}
    config = load(
        {
            "rounds": 5,
            "output": str(tmp_path / "run"),
            "data": {"source": "digits", "max_examples": 120},
            "participants": {"count": 2, "models": ["mlp"], "training": training},
            "student": {"model": "mlp", "training": training},
            "methods": ["fedavg"],
        }
    )
    rounds = simulation.run(config, executor=InProcess(), progress=Slow()).rounds
    after = rounds[rounds["round"] > 1]  # from the end of the first, as its telling begins
    assert after["wall_s"].sum() >= 3 * 0.3
