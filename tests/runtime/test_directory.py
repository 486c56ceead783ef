"""Where workers work, and what is said of an actor that could not begin."""

import traceback
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from fedsim import runtime
from fedsim.errors import ConfigError
from fedsim.runtime.executor import _line


def test_a_worker_works_where_the_driver_does(tmp_path: Path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    told = runtime.directory()
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    runtime.enter_directory()
    assert Path.cwd() == tmp_path / "there"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").rmdir()  # another machine
    runtime.enter_directory()
    assert Path.cwd() == tmp_path


def test_a_job_works_in_its_own_copies(tmp_path: Path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert runtime.directory() == {}


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ConfigError("model", "mine", "a preset"), "model: 'mine' is not valid; expected a preset"),
        (ModuleNotFoundError("No module named 'mine'"), "ModuleNotFoundError: No module named 'mine'"),
    ],
)
def test_an_actor_that_could_not_begin_is_said_to_have_died_of_what_was_raised(raised, said):
    try:
        raise raised
    except Exception as error:
        task = RayTaskError("HostActor.__init__", traceback.format_exc(), error)
    task._actor_id = "0" * 32  # as Ray sets it
    assert _line(ActorDiedError(task)) == said
    assert _line(ActorDiedError()) == "The actor died unexpectedly before finishing this task."
