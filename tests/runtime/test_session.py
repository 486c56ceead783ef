"""What Ray does to its driver's process and temporary folder is kept in order."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ray._private import utils

import fedsim
from fedsim.disk.scratch import Folder
from fedsim.errors import ConfigError
from fedsim.runtime import session
from fedsim.runtime.session import own_sigterm

MODELS = {"participants": {"models": ["vit-micro"]}, "student": {"model": "vit-micro"}}
TAKE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from fedsim.disk.scratch import Folder
folder = Folder()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path_factory, monkeypatch) -> Path:
    """A short temporary directory of this test's own."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        yield Path(parent)


def test_the_next_run_removes_the_folders_of_dead_ones_only(parent):
    other = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs = Path(other.stdout.readline().strip())
    (theirs / "ray").mkdir()
    results = parent / "fedsim-results"  # somebody's run, which has a lock of its own
    results.mkdir()
    (results / ".lock").touch()

    Folder().remove()
    assert theirs.is_dir(), "its driver lives"
    other.kill()
    other.communicate()
    mine = Folder()
    assert sorted(parent.iterdir()) == sorted([results, mine.path])
    mine.remove()
    assert list(parent.iterdir()) == [results]


def test_a_deep_temporary_directory_is_not_used(parent, monkeypatch):
    deep = parent / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = session.folder()
    try:
        assert folder.path.parent == Path("/tmp")
    finally:
        folder.remove()


def test_the_room_is_what_ray_needs(parent):
    """With a parent of just that length Ray starts; it says so where a path is too long."""
    from ray._private.utils import validate_socket_filepath

    socket = "ray/session_2026-11-21_23-59-59_999999_4194304/sockets/plasma_store"
    for length, fits in ((session.ROOM, True), (session.ROOM + 1, False)):
        path = f"/{'p' * (length - 1)}/fedsim-12345678/{socket}"
        if fits:
            validate_socket_filepath(path)
        else:
            with pytest.raises(OSError, match="107"):
                validate_socket_filepath(path)


def test_a_programs_handler_outlives_rays():
    def ours(number, frame):
        raise KeyboardInterrupt

    def of_ray(number, frame):
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with own_sigterm():
            utils.set_sigterm_handler(of_ray)
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(KeyboardInterrupt), own_sigterm():
            utils.set_sigterm_handler(of_ray)
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), own_sigterm(), contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)  # lost, as in a callback
        with pytest.raises(KeyboardInterrupt), own_sigterm():
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise RuntimeError("Ray did not start") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_job_does_not_write_into_rays_copy(tmp_path, monkeypatch):
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"^output: 'runs/mine' is not valid; expected an absolute path"):
        fedsim.run(fedsim.load({"name": "mine", "data": {"source": "digits"}, **MODELS}))
    assert not list(copy.iterdir())
