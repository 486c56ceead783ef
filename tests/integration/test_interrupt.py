"""Ctrl-C and SIGTERM: one line, nothing left behind, and a folder that continues as if undisturbed."""

import json
import os
import signal
import time

import pytest
import yaml

import fedsim

ON_RAY = ("runtime.executor=ray", "runtime.participants_per_actor=5")
SIDE_BY_SIDE = (*ON_RAY, "runtime.parallel_methods=2")
ENDLESS = ("participants.training.steps=1000000", "student.training.steps=1000000")


def said(err: str) -> list[str]:
    """What stands on stderr beside the progress."""
    return [line for line in err.splitlines() if not line.startswith("[")]


@pytest.mark.parametrize(
    ("number", "where"),
    [
        pytest.param(signal.SIGINT, ON_RAY, id="SIGINT on Ray"),
        pytest.param(signal.SIGTERM, SIDE_BY_SIDE, id="SIGTERM on Ray", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, (), id="SIGINT in process", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, (), id="SIGTERM in process", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    number, where, fedsim_command, configs, digits_run, assert_same_results, clean_process, tmp_path
):
    folder = tmp_path / "run"
    command = fedsim_command.start("run", configs["digits"], f"output={folder}", *where)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.json")
    # To the whole group, as a terminal does, and `timeout`, Slurm and a shell's `kill -- -PID`.
    os.killpg(command.process.pid, number)
    done = command.end()
    assert done.status == 128 + number
    assert said(done.err) == [f"fedsim: interrupted; fedsim run --resume {folder} continues the run"]
    assert not (folder / "report.html").exists(), "too late to show anything"
    # Where it goes on may differ from where it began.
    fedsim.run(fedsim.load(folder / "config.yaml", **{"runtime.executor": "in_process"}), resume=True)
    assert_same_results(folder, digits_run)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param((), id="in process"),
        pytest.param(ON_RAY, id="one lane", marks=pytest.mark.slow),
        pytest.param(SIDE_BY_SIDE, id="two lanes", marks=pytest.mark.slow),
    ],
)
def test_a_long_round_is_not_waited_for(where, fedsim_command, configs, tmp_path):
    folder = tmp_path / "run"
    command = fedsim_command.start("run", configs["digits"], f"output={folder}", *where, *ENDLESS)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.partial")
    time.sleep(1)  # into the round
    command.process.terminate()
    assert command.process.wait(20) == 143  # one to three seconds, most of them Ray's own end
    command.end()


def test_while_actors_start(fedsim_command, configs, tmp_path):
    command = fedsim_command.start("run", configs["distil"], f"output={tmp_path / 'run'}", *ON_RAY)
    while "starting actors" not in command.text("err"):
        assert command.process.poll() is None, command.text("err")
        time.sleep(0.05)
    os.killpg(command.process.pid, signal.SIGINT)
    done = command.end()
    assert done.status == 130
    assert len(said(done.err)) == 1, done.err


@pytest.mark.parametrize("what", ["run", "sweep"])
def test_while_machines_are_waited_for(what, fedsim_command, configs, tmp_path):
    """Those with GPUs, which don't come."""
    wants = {"runtime": {"executor": "ray", "wait_s": 300, "participant": {"gpus": 1}}}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": str(configs["distil"]), "set": wants, "space": {"seed": [0, 1]}}))
    given = (path,) if what == "sweep" else (configs["distil"], f"runtime={json.dumps(wants['runtime'])}")
    command = fedsim_command.start(what, *given, f"output={tmp_path / 'out'}")
    waits = "waiting for machines" if what == "sweep" else "starting actors"
    while waits not in command.text("err"):
        assert command.process.poll() is None, command.text("err")
        time.sleep(0.05)
    time.sleep(2)
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.process.wait(20) == 130
    assert len(said(command.end().err)) == 1, command.text("err")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 1.0, 1.8, 2.6])
def test_while_ray_starts(delay, fedsim_command, configs, tmp_path):
    """Ray puts a handler of its own in place meanwhile; the end is the same."""
    command = fedsim_command.start("run", configs["distil"], f"output={tmp_path / 'run'}", *ON_RAY)
    while not command.folders():
        assert command.process.poll() is None, command.text("err")
        time.sleep(0.02)
    time.sleep(delay)
    command.process.terminate()
    done = command.end()
    assert done.status == 143
    assert "Traceback" not in done.err, done.err


@pytest.mark.slow
def test_a_second_signal_ends_at_once(fedsim_command, configs, tmp_path):
    folder = tmp_path / "run"
    command = fedsim_command.start("run", configs["distil"], f"output={folder}", *ON_RAY, *ENDLESS)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.partial")
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(5) in (130, -signal.SIGTERM)  # the first may have been quick enough
