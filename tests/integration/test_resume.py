"""A run goes on where it stopped, however it stopped, and ends as if nothing had happened."""

import json
import os
import shutil
import signal
import time

import pytest

import fedsim
from analysis.report import write
from fedsim import simulation
from fedsim.disk.checkpoints import Checkpoints
from fedsim.errors import ConfigError, RunError
from fedsim.executor import InProcess
from tests.power_cut import Dies

RAY = ("runtime.executor=ray", "runtime.participants_per_actor=5")
# Two helpers of Ray notice at once that their raylet is gone, but want to tell the control store, which
# is gone too, and try for a minute before they end.
LINGERING = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def test_after_kill_9_of_the_driver(fedsim_command, configs, digits_run, assert_same_results, tmp_path):
    folder = tmp_path / "run"
    command = fedsim_command.start("run", configs["digits"], f"output={folder}", *RAY)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.json")
    command.process.kill()
    assert command.process.wait(10) == -signal.SIGKILL

    until, left = time.monotonic() + 20, command.left()
    while any(line not in LINGERING for line in left.values()) and time.monotonic() < until:
        time.sleep(0.1)
        left = command.left()
    assert set(left.values()) <= set(LINGERING), left
    command.kill_all()
    assert command.folders(), "nobody was there to remove it"

    # The folder says what is there and what is not; half of a round is not in its tables.
    assert not (folder / "report.html").exists()
    done = fedsim_command("run", "--resume", folder)
    assert "federated_distillation" in done.out and "student" in done.out
    assert "federated_distillation round 1/3" not in done.err, "it began from the start"
    assert_same_results(folder, digits_run)


@pytest.mark.slow
def test_after_kill_9_while_they_teach_each_other(
    fedsim_command, configs, assert_same_results, clean_process, tmp_path
):
    """What FL-MiniLLM keeps between rounds, sequences that are to be scored next, is not lost either."""
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    simulation.run(fedsim.load(configs["sequences"], output=str(undisturbed)))
    command = fedsim_command.start("run", configs["sequences"], f"output={folder}", *RAY)
    command.wait_for(folder / "checkpoints" / "fl_minillm" / "round-0001.json")
    command.process.kill()
    assert command.process.wait(10) == -signal.SIGKILL
    command.kill_all()
    done = fedsim_command("run", "--resume", folder)
    assert "fl_minillm round 2/2" in done.err and "fl_minillm round 1/2" not in done.err
    assert_same_results(folder, undisturbed)


@pytest.mark.slow
def test_after_kill_9_everything_ends_by_itself(fedsim_command, configs, tmp_path):
    folder = tmp_path / "run"
    command = fedsim_command.start("run", configs["distil"], f"output={folder}", *RAY)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.json")
    command.process.kill()
    assert not command.left(patience=120)


@pytest.mark.parametrize("stage", ["partial", "renamed", "stale report"])
def test_between_the_states_and_their_commit(
    stage, configs, digits_run, assert_same_results, clean_process, tmp_path
):
    folder = tmp_path / "run"
    config = fedsim.load(configs["distil"], output=str(folder))
    with pytest.raises(OSError, match="power cut"):
        simulation.run(config, executor=Dies())
    rounds = folder / "checkpoints" / "federated_distillation"
    assert (rounds / "round-0002.partial" / "coordinator").is_dir()
    assert (rounds / "round-0001.json").exists() and not (rounds / "round-0002.json").exists()
    if stage == "renamed":  # it died a moment later
        (rounds / "round-0002.partial").rename(rounds / "round-0002")
    if stage == "stale report":  # a report of an unfinished run must not pass for its end
        write([folder], folder / "report.html")
    fedsim.run(config, resume=True)
    assert_same_results(folder, digits_run, methods=("federated_distillation",))
    assert not list(rounds.glob("*.partial"))


def test_other_data_do_not_continue_a_run(clean_process, tmp_path):
    """The config still fits, what it names doesn't."""
    texts, folder = tmp_path / "texts.jsonl", tmp_path / "run"
    rows = [
        {"text": f"{k} and {k * 7 % 13} are what line {k} is about, " * 12, "of": "ab"[k % 2]}
        for k in range(60)
    ]
    texts.write_text("\n".join(map(json.dumps, rows)))
    training = {"steps": 2, "batch_size": 4}
    config = fedsim.load(
        {
            "rounds": 3,
            "data": {
                "source": "files",
                "path": str(texts),
                "modality": "text",
                "vocabulary": 300,
                "window": 32,
            },
            "participants": {
                "count": 2,
                "models": ["llama-tiny"],
                "partition": {"minimum": 1},
                "training": training,
            },
            "student": {"model": "llama-tiny", "training": training},
            "methods": ["federated_distillation"],
        },
        output=str(folder),
    )
    with pytest.raises(OSError, match="power cut"):
        simulation.run(config, executor=Dies())
    began = json.loads((folder / "manifest.json").read_text())
    was, read = texts.read_text(), lambda: (folder / "manifest.json").read_text()
    texts.write_text(was.replace("line 7 ", "line 8 "))
    with pytest.raises(
        ConfigError, match=r"^resume: data: .* expected the data that the run began with: .*differ"
    ):
        fedsim.run(config, resume=True)
    assert json.loads(read()) == began
    texts.write_text(was)
    fedsim.run(config, resume=True)
    ended = json.loads(read())
    assert ended["status"] == "finished"
    assert ended["started"] == began["started"] < ended["resumed"][0] and len(ended["resumed"]) == 1


def test_half_an_export_is_not_taken_for_a_student(configs, score_of_student, clean_process, tmp_path):
    class DiesInExport(InProcess):
        def export(self, lane, folder, card, tokenizer):
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            raise OSError("disk full")

    config = fedsim.load(configs["distil"], output=str(tmp_path / "run"))
    with pytest.raises(OSError, match="disk full"):
        simulation.run(config, executor=DiesInExport())
    result = fedsim.run(config, resume=True)
    score, _ = score_of_student(result.folder)
    assert score == pytest.approx(result.rounds.score.iloc[-1])


def test_a_finished_run_is_only_shown(fedsim_command, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")

    def contents():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}

    before = contents()
    done = fedsim_command("run", "--resume", folder)
    assert "centralized" in done.out and str(folder / "report.html") in done.out
    assert done.err == "", "nothing was started"
    after = contents()
    lock = folder / ".lock"
    assert {p: s for p, s in after.items() if p != lock} == {p: s for p, s in before.items() if p != lock}


def test_a_run_in_this_process_leaves_its_environment_as_it_was(configs, clean_process, tmp_path):
    """DeepSpeed's group is left, and nothing looks like a distributed job to other libraries."""
    before = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    fedsim.run(fedsim.load(configs["distil"], output=str(tmp_path / "run")))
    assert {name: os.environ.get(name) for name in before} == before


def test_rows_that_can_not_be_written_end_the_run_and_are_made_again(
    configs, digits_run, assert_same_results, tmp_path, monkeypatch
):
    """They are written while the next round works, which must not count without them."""
    folder, commit = tmp_path / "run", Checkpoints.commit

    def fails(self, round, records):
        if round == 2:
            raise RunError("the store is away")
        commit(self, round, records)

    config = fedsim.load(configs["digits"], output=str(folder))
    monkeypatch.setattr(Checkpoints, "commit", fails)
    with pytest.raises(RunError, match="the store is away"):
        simulation.run(config, executor=InProcess())
    first = Checkpoints(folder, config.methods[0].contender)
    assert first.finished() == 1
    assert first.state(1).exists(), "the states that a resumed run begins with"
    monkeypatch.undo()
    simulation.run(config, resume=True, executor=InProcess())
    assert_same_results(folder, digits_run)
