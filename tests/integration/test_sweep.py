"""Sweeps as a user starts them: side by side, failing, killed, interrupted, continued, as a job."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import fedsim
from analysis.load import load
from fedsim.attacks.run import attack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(configs, tmp_path) -> Callable[[str], Path]:
    """`write(yaml)`: a sweep's file over the tiny federated distillation."""

    def write(more: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(f"base: {configs['distil']}\n{more}")
        return path

    return write


def process_of(folder: Path) -> int:
    """The process that works in a folder: who has its lock open. By path, so that it is one of ours."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to somebody else
            if entry.readlink() == folder / ".lock":
                return int(entry.parts[2])
    raise AssertionError(f"nobody works in {folder}")


def contents(folder: Path) -> dict[Path, int]:
    """Files → when they were written; but for the lock, which tells who works there."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def finished(folder: Path) -> list[Path]:
    return [report.parent for report in folder.glob("trials/*/report.html")]


@pytest.mark.slow
def test_a_failed_trial_is_named_and_tried_again_and_the_others_finish(fedsim_command, write, tmp_path):
    folder = tmp_path / "out"
    path = write("""
set: {student.training.warmup: 0}
space:
  student.training.learning_rate: [1.0e-3, 2.0e-3, 5.0e-3, 1.0e+30] # with the last one it diverges
trackers: [tensorboard]
attack: 0
""")
    done = fedsim_command("sweep", path, f"output={folder}", "retries=1", status=1)
    assert "4 trials: 3 finished, 1 failed" in done.out
    bad = "0004-learning_rate=1e+30"
    assert f"{bad} failed: the training loss is" in done.err, done.err
    assert done.err.count("attempt 2 of 2 follows") == 1
    assert f"fedsim: trial {bad} failed: the training loss is" in done.err
    assert "Traceback" not in done.err + done.out
    assert "Tune" not in done.err + done.out and "ray" not in done.out

    table = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert list(table.status) == ["finished", "finished", "finished", "failed"]
    assert list(table["axis.student.training.learning_rate"]) == [1e-3, 2e-3, 5e-3, 1e30]
    assert table.reason[bad].startswith("the training loss is")
    assert table["auc.student"][:3].between(0, 1).all() and table["auc.student"].isna()[bad]
    assert "AUC, student" in done.out
    assert set(load(folder).attacks.target) == {"student", "responses", "specialists"}
    good = table.iloc[0]
    run = load(folder / "trials" / good.name)
    assert good.score == run.summary.score.item() == good["score.federated_distillation"]
    assert (good.bytes_up, good.rounds) == (run.messages[run.messages.direction == "up"].bytes.sum(), 3)
    report = (folder / "report.html").read_text()
    assert "0002-learning_rate=0.002" in report
    assert len(list((folder / "tune").glob("0001-*/events.out.tfevents.*"))) == 1


def test_a_trial_that_no_machine_comes_for_is_refused_when_the_time_is_up(fedsim_command, write, tmp_path):
    path = write("""
set: {runtime: {executor: ray, wait_s: 3, participant: {gpus: 1}}}
space: {seed: [0, 1]}
""")
    done = fedsim_command("sweep", path, f"output={tmp_path / 'out'}", status=2)
    assert "fedsim: runtime.wait_s: 3.0 is not valid; expected longer" in done.err
    assert "trial 0001-seed=0 needs" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_trial_of_one_host_on_a_small_machine(fedsim_command, write, tmp_path):
    """Two hosts of a whole CPU each find no place beside coordinator and driver."""
    path = write(f"""
set: {{runtime: {{executor: ray, participant: {{cpus: {max(2, os.cpu_count()) - 1}}}}}}}
space: {{seed: [0, 1]}}
""")
    done = fedsim_command("sweep", path, f"output={tmp_path / 'out'}")
    assert "2 trials: 2 finished" in done.out


@pytest.mark.slow
def test_trials_know_what_plugins_define(fedsim_command, write, tmp_path):
    """Read once, by who starts the sweep: in a process of its own a trial finds no file of them here."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("""
from pathlib import Path
from fedsim.methods import METHODS
from fedsim.methods.fedavg import FedAvg

class Mine(FedAvg):
    pass

METHODS["mine"] = Mine
Path(__file__).unlink(missing_ok=True)
""")
    path = write(f"""
set: {{plugins: [{plugin}], methods: [{{name: mine, specialists: student}}]}}
space: {{seed: [0, 1]}}
""")
    done = fedsim_command("sweep", path, f"output={tmp_path / 'out'}")
    assert "2 trials: 2 finished" in done.out and not plugin.exists()


@pytest.mark.slow
def test_an_attack_that_failed_or_was_interrupted_is_made_again(fedsim_command, write, tmp_path):
    folder = tmp_path / "out"
    path = write("""
scenarios: {who: {nobody: {methods: [centralized]}, some: {}}}
attack: 0
retries: 0
""")
    done = fedsim_command("sweep", path, f"output={folder}", status=1)
    assert "2 trials: 1 finished, 1 failed" in done.out
    assert "fedsim: trial 0001-who=nobody failed: contender: 'centralized' is not valid" in done.err
    table = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert list(table.status) == ["failed", "finished"] and table.score.notna().all()

    attacked = folder / "trials" / "0002-who=some"
    kept = contents(attacked)
    (attacked / "attacks.parquet").unlink()  # as if interrupted in it
    done = fedsim_command("sweep", "--resume", folder, status=1)
    assert "2 trials: 1 finished, 1 failed" in done.out
    now = contents(attacked)
    assert now.keys() == kept.keys()
    assert {p.name for p in now if now[p] != kept[p]} == {"attacks.parquet", "labels.parquet"}


@pytest.mark.slow
def test_a_killed_trial_goes_on_at_its_last_round(
    fedsim_command, write, assert_same_results, clean_process, tmp_path
):
    folder = tmp_path / "out"
    path = write("set: {rounds: 12}\nspace: {seed: [0, 1]}\n")
    command = fedsim_command.start("sweep", path, f"output={folder}")
    trial = folder / "trials" / "0001-seed=0"
    round_2 = trial / "checkpoints" / "federated_distillation" / "round-0002.json"
    command.wait_for(round_2)
    os.kill(process_of(trial), signal.SIGKILL)
    written = round_2.stat().st_mtime_ns
    done = command.end()
    assert done.status == 0, done.err
    assert "0001-seed=0 failed: " in done.err and "attempt 2 of 2 follows" in done.err
    assert round_2.stat().st_mtime_ns == written, "it began from the start"
    alone = fedsim.run(fedsim.load(trial / "config.yaml", output=str(tmp_path / "alone")))
    assert_same_results(trial, alone.folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_does_what_is_left(fedsim_command, write, number, tmp_path):
    folder = tmp_path / "out"
    path = write("set: {rounds: 6}\nspace: {seed: [0, 1, 2, 3, 4, 5]}\n")
    command = fedsim_command.start("sweep", path, f"output={folder}", "max_concurrent=1")
    command.wait_for(folder / "trials" / "0003-seed=2" / "checkpoints")
    os.kill(command.process.pid, number)
    if number == signal.SIGINT:
        done = command.end()
        assert done.status == 130
        assert f"fedsim: interrupted; fedsim sweep --resume {folder} continues the sweep" in done.err
        assert "Traceback" not in done.err, done.err
    else:
        command.process.wait(10)
        time.sleep(2)  # the trial's process ends when it misses the driver
        command.kill_all()
    before = finished(folder)
    assert 2 <= len(before) < 6
    kept = {trial: contents(trial) for trial in before}

    done = fedsim_command("sweep", "--resume", folder)
    assert f"{len(before)} of 6 trials are done already" in done.err
    assert "6 trials: 6 finished" in done.out
    assert {trial: contents(trial) for trial in before} == kept
    assert len(load(finished(folder)).runs) == 6 and (folder / "report.html").exists()
    again = fedsim_command("sweep", path, "set.rounds=6", "--resume", folder)
    assert "6 of 6 trials are done already" in again.err and "starting" not in again.err
    assert {trial: contents(trial) for trial in before} == kept


@pytest.mark.slow
def test_asha_stops_the_worst_and_a_resumed_sweep_remembers(fedsim_command, write, tmp_path):
    folder = tmp_path / "out"
    path = write("""
set:
  rounds: 4
  data.max_examples: 800
  participants.training: {steps: 20, batch_size: 16, learning_rate: 2.0e-3}
  student.training: {steps: 30, batch_size: 32}
space: {student.training.learning_rate: [3.0e-3, 2.0e-3, 1.0e-6, 1.0e-7]}
scheduler: {kind: asha, grace_rounds: 2, reduction_factor: 2}
""")
    done = fedsim_command("sweep", path, f"output={folder}", "max_concurrent=1")
    table = pd.read_parquet(folder / "trials.parquet")
    assert list(table.status[:1]) == ["finished"] and set(table.status[2:]) == {"stopped"}, table
    stopped = table[table.status == "stopped"]
    assert (stopped["rounds"] == 2).all() and stopped.score.notna().all()
    assert (stopped.reason == "by the scheduler after round 2").all()
    assert "stopped by the scheduler after round 2" in done.err
    shown = (folder / "report.html").read_text()
    assert "0001-" in shown

    kept = contents(folder / "trials")
    again = fedsim_command("sweep", "--resume", folder)
    assert "4 of 4 trials are done already" in again.err
    assert contents(folder / "trials") == kept


def test_what_the_cluster_cannot_hold_is_said_and_nothing_is_left(fedsim_command, write, tmp_path):
    path = write("set: {runtime: {executor: ray, coordinator: {cpus: 4000}}}\nspace: {seed: [0, 1]}\n")
    done = fedsim_command("sweep", path, f"output={tmp_path / 'out'}", status=2)
    said = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert len(said) == 1 and said[0].startswith("fedsim: trial 0001-seed=0: runtime"), done.err
    assert "the cluster has" in said[0] and "4000" in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed(fedsim_command, write, tracker, tmp_path):
    from importlib.util import find_spec

    if find_spec(tracker):
        pytest.skip(f"{tracker} is installed")
    path = write("space: {seed: [0, 1]}\n")
    done = fedsim_command("sweep", path, f"output={tmp_path / 'out'}", f"trackers=[{tracker}]", status=2)
    assert f"fedsim: trackers: '{tracker}' is not valid; expected an installed tracker" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_trials_of_actors_share_the_cluster(fedsim_command, write, tmp_path):
    """More trials than fit at a time, each with actors of its own; none waits for ever."""
    folder = tmp_path / "out"
    path = write("""
set: {runtime: {executor: ray, participants_per_actor: 2}}
space: {participants.count: [2, 5], seed: [0, 1]}
""")
    done = fedsim_command("sweep", path, f"output={folder}")
    assert "4 trials: 4 finished" in done.out
    alone = fedsim.run(
        fedsim.load(
            folder / "trials" / "0004-count=5-seed=1" / "config.yaml",
            output=str(tmp_path / "alone"),
            **{"runtime.executor": "in_process"},
        )
    )
    score = pd.read_parquet(folder / "trials.parquet").score.iloc[3]
    assert score == alone.summary.score.item()


@pytest.mark.slow
def test_trials_of_actors_are_attacked_with_shadows(fedsim_command, write, tmp_path):
    """No bundle of their placement groups has the CPU that a shadow takes."""
    folder = tmp_path / "out"
    path = write("""
set: {rounds: 1, runtime: {executor: ray}}
space: {seed: [0, 1]}
attack: 2
retries: 0
""")
    done = fedsim_command("sweep", path, f"output={folder}")
    assert "2 trials: 2 finished" in done.out
    trial = folder / "trials" / "0002-seed=1"
    attacks = pd.read_parquet(trial / "attacks.parquet")
    assert {"lira_online", "lira_offline"} <= set(attacks.attack)
    here = {"output": str(tmp_path / "alone"), "runtime.executor": "in_process"}
    alone = fedsim.run(fedsim.load(trial / "config.yaml", **here)).folder
    attack(alone, shadows=2)
    pd.testing.assert_frame_equal(attacks, pd.read_parquet(alone / "attacks.parquet"))


# As a job -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(start_head):
    return start_head("--num-cpus=2")


@pytest.fixture(scope="module")
def job(head, ray_program):
    """`job("stop", NAME)`: a command line of Ray's job client; access: who asks, with the token if absent."""

    def program(*arguments, access=None):
        known = {**(head.access if access is None else access), "RAY_API_SERVER_ADDRESS": head.dashboard}
        return ray_program(known, "job", *arguments)

    return program


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_as_a_job_interrupted_twice_ends_in_one_report(job, fedsim_command, write, tmp_path):
    folder = tmp_path / "out"
    path = write("""
set: {rounds: 4}
space: {participants.count: [3, 4], methods.0.sharpen: [1, 2], seed: [0, 1, 2, 3, 4, 5]}
""")

    def submission(name: str, *arguments: object, access: dict[str, str] | None = None) -> tuple[str, ...]:
        where = ("--submission-id", name, "--working-dir", ROOT)
        return job("submit", *where, "--", "python", "-m", "fedsim", "sweep", *arguments, access=access)

    def until(number: int) -> None:
        while len(finished(folder)) < number:
            assert command.process.poll() is None, command.text("out") + command.text("err")
            time.sleep(0.1)

    none = submission("none", path, f"output={folder}", access={"RAY_AUTH_MODE": "disabled"})
    refused = fedsim_command(program=none, status=1)
    assert "401" in refused.err + refused.out or "authentication" in (refused.err + refused.out).lower()
    assert not folder.exists()

    command = fedsim_command.start(program=submission("first", path, f"output={folder}"))
    until(5)
    fedsim_command(program=job("stop", "first"))
    command.end()
    after_stop = {trial: contents(trial) for trial in finished(folder)}
    assert 5 <= len(after_stop) < 20 and not (folder / "report.html").exists()

    command = fedsim_command.start(program=submission("second", path, "--resume", folder))
    until(len(after_stop) + 5)
    os.kill(process_of(folder), signal.SIGKILL)
    assert command.end().status == 1
    after_kill = {trial: contents(trial) for trial in finished(folder)}
    assert len(after_stop) + 5 <= len(after_kill) < 24 and not (folder / "report.html").exists()

    done = fedsim_command(program=submission("third", "--resume", folder))
    assert f"{len(after_kill)} of 24 trials are done already" in done.out
    assert "24 trials: 24 finished" in done.out
    for earlier in (after_stop, after_kill):
        assert {trial: contents(trial) for trial in earlier} == earlier
    table = pd.read_parquet(folder / "trials.parquet")
    assert len(table) == 24 and set(table.status) == {"finished"} and table.score.notna().all()
    report = (folder / "report.html").read_text()
    assert all(name in report for name in table.trial)
