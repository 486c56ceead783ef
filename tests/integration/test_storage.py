"""Runs whose results lie in an object store, and runs that find too little disk or memory: they end with
one line and go on where they stopped, and the tables are those of an undisturbed local run."""

import json
import re
import signal
import subprocess
import sys

import pytest

import fedsim
from analysis.load import load
from analysis.report import write
from fedsim import RunError, simulation
from tests.power_cut import Dies

ON_RAY = ("runtime.executor=ray", "runtime.participants_per_actor=2")
DISTIL = ("federated_distillation",)


def said(done) -> str:
    """The one line that a command ended with, besides its progress."""
    lines = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and lines[0].startswith("fedsim: "), done.err
    return lines[0]


def interrupt(command, remote) -> None:
    """Kill a run's driver and all else that it started once its first round is finished."""
    command.wait_for(remote / "checkpoints" / DISTIL[0] / "round-0001.json")
    command.process.kill()
    assert command.process.wait(10) == -signal.SIGKILL
    command.kill_all()
    assert not (remote / "report.html").exists()


def test_a_run_in_a_store_goes_on_and_is_read_where_it_is(
    configs, remote, digits_run, assert_same_results, clean_process, tmp_path
):
    config = fedsim.load(configs["distil"], output=str(remote))
    with pytest.raises(OSError, match="power cut"):
        simulation.run(config, executor=Dies())
    rounds = remote / "checkpoints" / DISTIL[0]
    assert (rounds / "round-0002" / "coordinator").is_dir() and not (rounds / "round-0002.json").exists()
    result = fedsim.run(fedsim.load(remote / "config.yaml"), resume=True)
    assert result.folder == remote
    assert_same_results(remote, digits_run, methods=DISTIL)
    assert not [path.name for path in remote.iterdir() if path.name.startswith(".")], "a lock was left"
    tables = load(str(remote))
    assert tables.runs[0].name == "run" and tables.runs[0].manifest["status"] == "finished"
    assert len(tables.summary) == len(result.summary) == 1
    here = write([str(remote), digits_run], tmp_path / "report.html")
    assert "tiny-distil" in result.report.read_text() and "tiny-distil" in here.read_text()


def test_a_student_in_a_store_is_whole(configs, remote, score_of_student, clean_process, tmp_path):
    result = fedsim.run(fedsim.load(configs["distil"], rounds=1, output=str(remote)))
    for name in ("config.yaml", "student"):
        (remote / name).download(tmp_path / name)
    score, _ = score_of_student(tmp_path)
    assert score == pytest.approx(result.rounds.score.iloc[-1])
    # Without its card, which comes last, it is half a student, and is written again.
    (remote / "student" / "README.md").unlink()
    (remote / "student" / "model.safetensors").unlink()
    (remote / "report.html").unlink()
    fedsim.run(fedsim.load(configs["distil"], rounds=1, output=str(remote)), resume=True)
    assert {"README.md", "model.safetensors"} <= {path.name for path in result.student.iterdir()}


def test_a_missing_bucket_is_said_before_anything_starts(fedsim_command, configs, s3):
    done = fedsim_command("run", configs["distil"], *ON_RAY, "output=s3://nobody-has-it/run", status=2)
    assert "output: 's3://nobody-has-it/run'" in said(done) and "not found" in said(done)
    assert not done.err.startswith("["), "it began"


@pytest.mark.slow
def test_actors_write_to_a_store(fedsim_command, configs, remote, digits_run, assert_same_results):
    interrupt(fedsim_command.start("run", configs["digits"], *ON_RAY, f"output={remote}"), remote)
    done = fedsim_command("run", "--resume", remote)
    assert "federated_distillation round 1/3" not in done.err, "it began from the start"
    assert_same_results(remote, digits_run)


@pytest.mark.slow
def test_every_rank_of_a_student_writes_its_part(fedsim_command, configs, remote, tmp_path):
    ranks = (
        *ON_RAY, "runtime.participant.cpus=0.1", "runtime.coordinator.cpus=0.4",
        "student.engine.ranks=2", "student.engine.zero_stage=2",
    )  # fmt: skip
    whole = tmp_path / "whole"
    fedsim_command("run", configs["distil"], *ranks, f"output={whole}")
    interrupt(fedsim_command.start("run", configs["distil"], *ranks, f"output={remote}"), remote)
    fedsim_command("run", "--resume", remote)
    state = f"checkpoints/{DISTIL[0]}/round-0003/coordinator/student"
    there, here = (sorted(path.name for path in (folder / state).iterdir()) for folder in (remote, whole))
    assert there == here and len(here) >= 3
    assert simulation.Result(remote).rounds.score.equals(simulation.Result(whole).rounds.score)


# A full disk --------------------------------------------------------------------------------------


def size(disk, room: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)


FULL = r"the disk is full \([0-9.]+ MB free\); make room, then `--resume`"


def test_a_full_disk_ends_a_run_that_can_be_resumed(
    configs, digits_run, assert_same_results, clean_process, small_disk
):
    """There is room for the states of one round and not of two."""
    size(small_disk, "8m")
    config = fedsim.load(configs["distil"], output=str(small_disk / "run"))
    with pytest.raises(RunError, match=FULL):
        fedsim.run(config)
    assert (config.folder / "checkpoints" / DISTIL[0] / "round-0001.json").exists(), "it came that far"
    size(small_disk, "200m")
    fedsim.run(config, resume=True)
    assert_same_results(config.folder, digits_run, methods=DISTIL)


@pytest.mark.slow
def test_a_full_disk_under_the_actors(fedsim_command, configs, digits_run, assert_same_results, small_disk):
    size(small_disk, "8m")
    folder = small_disk / "run"
    done = fedsim_command("run", configs["digits"], *ON_RAY, f"output={folder}", status=1)
    assert re.search(FULL, said(done)) and str(folder) in said(done)
    again = fedsim_command("run", "--resume", folder, status=1)
    assert re.search(FULL, said(again))
    size(small_disk, "200m")
    fedsim_command("run", "--resume", folder)
    assert_same_results(folder, digits_run)


# Too little memory --------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from fedsim import cli
import fedsim.coordinator, fedsim.student.deepspeed
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_memory_that_runs_out_ends_a_run_that_can_be_resumed(fedsim_command, configs, tmp_path):
    """The student and its optimiser take half a gigabyte, and half of that is left."""
    shape = {
        "model_type": "vit",
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "patch_size": 2,
    }
    model, folder = tmp_path / "large.json", tmp_path / "run"
    model.write_text(json.dumps({**shape, "intermediate_size": 2**16}))
    changes = (f"student.model={model}", "methods=[centralized]", "rounds=1", f"output={folder}")
    limited = (sys.executable, "-c", LIMITED)
    done = fedsim_command("run", configs["distil"], *changes, status=1, program=limited)
    assert "this process ran out of memory (" in said(done)
    assert "batch_size" in said(done) and "resumed" in said(done)
    assert "centralized" in fedsim_command("run", "--resume", folder).out


@pytest.mark.slow
def test_an_actor_that_ray_ends_for_its_memory_is_named(fedsim_command, configs, digits_run, tmp_path):
    """A threshold below what the machine uses anyway: whatever starts is ended."""
    folder = tmp_path / "run"
    low = (sys.executable, "-c", "import os, sys; os.environ['RAY_memory_usage_threshold'] = '0.01'\n"
           "from fedsim import cli; sys.exit(cli.main(sys.argv[1:]))")  # fmt: skip
    done = fedsim_command("run", configs["distil"], *ON_RAY, f"output={folder}", status=1, program=low)
    assert "ran out of memory (Ray ended it with" in said(done)
    assert "host of participants" in said(done) or "coordinator" in said(done)
    assert "runtime.participants_per_actor" in said(done) and "resumed" in said(done)
