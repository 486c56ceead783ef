"""`ray job submit` on a head with token authentication: streamed logs, exit status, stop and resume."""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fedsim.models.presets import PRESETS

ROOT = Path(__file__).parents[2]
ON_RAY = ("runtime.executor=ray", "runtime.participants_per_actor=5")
PACKAGES = "ray/session_2*/runtime_resources/working_dir_files/*/**/*"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head(start_head):
    return start_head("--num-cpus=2")


@pytest.fixture(scope="module")
def job(head, ray_program):
    """`job("stop", NAME)`: a command line of Ray's job client; access: who asks, with the token if absent."""

    def program(*arguments, access=None):
        access = head.access if access is None else access
        return ray_program({**access, "RAY_API_SERVER_ADDRESS": head.dashboard}, "job", *arguments)

    return program


@pytest.fixture(scope="module")
def submission(job):
    """`submission(NAME, "run", …)`: what submits `fedsim run …` with the project as working directory."""

    def program(name, *arguments, working_dir=ROOT, access=None):
        entrypoint = ("--", "python", "-m", "fedsim", *arguments)
        where = ("--submission-id", name, "--working-dir", working_dir)
        return job("submit", *where, *entrypoint, access=access)

    return program


def test_logs_stream_and_the_status_is_right(
    head, submission, fedsim_command, configs, digits_run, assert_same_results, tmp_path
):
    folder = tmp_path / "run"
    run = submission("good", "run", configs["digits"], f"output={folder}", *ON_RAY)
    command = fedsim_command.start(program=run)
    while "federated_distillation round 1/3" not in command.text("out"):
        assert command.process.poll() is None, command.text("out") + command.text("err")
        time.sleep(0.1)
    assert not (folder / "report.html").exists(), "the log came when all was over"
    done = command.end()
    assert done.status == 0, done.out
    assert re.search(r"centralized +\d", done.out) and str(folder / "report.html") in done.out
    assert_same_results(folder, digits_run)
    files = [path for path in head.command.temp.glob(PACKAGES) if path.is_file()]
    names = {path.name for path in files}
    assert "simulation.py" in names and "test_jobs.py" not in names
    assert sum(path.stat().st_size for path in files) < 2e6, "what is uploaded, unpacked"


def test_a_wrong_config_fails_with_its_one_line(submission, fedsim_command, configs, tmp_path):
    run = submission("bad", "run", configs["digits"], f"output={tmp_path / 'run'}", "rounds=0")
    done = fedsim_command(program=run, status=1)  # Ray has no other status for what failed
    assert "fedsim: rounds: 0 is not valid; expected greater than or equal to 1" in done.out
    assert "Traceback" not in done.out


def test_results_in_rays_copy_would_be_lost(submission, fedsim_command, configs, tmp_path):
    done = fedsim_command(program=submission("lost", "run", configs["digits"], "output=runs/lost"), status=1)
    assert "fedsim: output: 'runs/lost' is not valid; expected an absolute path" in done.out


def jobs(head, token: str | None) -> tuple[int, list[str]]:
    """(HTTP status, names) of what the head's job server tells who holds this token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{head.dashboard}/api/jobs/", None, headers)
        ) as r:
            return r.status, [job["submission_id"] for job in json.load(r)]
    except urllib.error.HTTPError as error:
        return error.code, []


def test_who_has_no_token_submits_nothing(head, submission, fedsim_command, tmp_path):
    assert jobs(head, None)[0] == 401
    assert jobs(head, "f" * 64)[0] == 403
    forged = tmp_path / "token"
    forged.write_text("f" * 64)
    none, wrong = (
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(forged)},
    )
    for name, access in (("none", none), ("wrong", wrong)):
        done = fedsim_command(program=submission(name, "doctor", access=access), status=1)
        assert "AuthenticationError" in done.err
    status, known = jobs(head, head.token.read_text())
    assert status == 200 and not {"none", "wrong"} & set(known)


def test_a_stopped_job_is_continued_by_the_next(
    submission, job, fedsim_command, configs, digits_run, assert_same_results, tmp_path
):
    folder = tmp_path / "run"
    run = submission("first", "run", configs["digits"], f"output={folder}", *ON_RAY)
    command = fedsim_command.start(program=run)
    command.wait_for(folder / "checkpoints" / "federated_distillation" / "round-0001.json")
    stopped = fedsim_command(program=job("stop", "first"))
    assert "stopped" in stopped.out.lower()
    done = command.end()
    assert f"fedsim: interrupted; fedsim run --resume {folder} continues the run" in done.out
    assert not (folder / "report.html").exists(), "too late to show anything"

    done = fedsim_command(program=submission("second", "run", "--resume", folder))
    assert "federated_distillation round 1/3" not in done.out, "it began from the start"
    assert_same_results(folder, digits_run)


@pytest.fixture
def elsewhere(head, tmp_path):
    """A driver on the head whose working directory is not that of the workers."""
    access = [f"{name}={value}" for name, value in {**head.access, "RAY_ADDRESS": head.address}.items()]
    return ("env", "-C", str(tmp_path), *access, f"PYTHONPATH={ROOT}", sys.executable, "-m", "fedsim")


def test_a_driver_elsewhere_may_name_its_folder_relatively(
    elsewhere, fedsim_command, configs, digits_run, assert_same_results, tmp_path
):
    fedsim_command("run", configs["distil"], "output=here", *ON_RAY, program=elsewhere)
    assert_same_results(tmp_path / "here", digits_run, methods=("federated_distillation",))


@pytest.fixture
def models(tmp_path):
    """Overrides that name models of the driver's directory."""
    described = {"model_type": PRESETS["vit-micro"].model_type, **PRESETS["vit-micro"].shape}
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(described))
    return "student.model=mine", "participants.models=[theirs,mine]", "rounds=2"


def test_a_driver_elsewhere_may_name_its_models_relatively(
    elsewhere, models, fedsim_command, configs, assert_same_results, tmp_path
):
    fedsim_command("run", configs["distil"], "output=here", *models, *ON_RAY, program=elsewhere)
    at_home = ("env", "-C", str(tmp_path), f"PYTHONPATH={ROOT}", sys.executable, "-m", "fedsim")
    fedsim_command("run", configs["distil"], "output=there", *models, program=at_home)
    assert_same_results(tmp_path / "here", tmp_path / "there")


def test_so_may_the_driver_of_a_sweep(elsewhere, models, fedsim_command, configs, tmp_path):
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"base: {configs['distil']}\nspace: {{seed: [0]}}\nretries: 0\n")
    fields = [f"set.{field}" for field in models]
    done = fedsim_command("sweep", sweep, "output=swept", *fields, program=elsewhere)
    assert "1 trials: 1 finished" in done.out
