"""What a driver keeps in order around Ray: the handling of SIGTERM, and a private instance's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from ray._private import utils  # no public option leaves SIGTERM alone

PREFIX = "fedsim-"
MARK = ".fedsim-driver"
"""In every folder that is ours; its driver holds a lock on it, which the kernel frees at its end."""
ROOM = 107 - len(f"/{PREFIX}12345678/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Longest parent of such a folder: the path of a Unix socket has at most 107 characters."""


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep a program's handler of SIGTERM, which `ray.init` would replace by ones of its own.

    What the handler raises may be lost within Ray (in a callback, say), so it is raised again at the end.
    """
    ours, raised = signal.getsignal(signal.SIGTERM), None
    if not callable(ours) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def heed(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        try:
            ours(number, frame)
        except BaseException as error:
            raised = error
            raise

    sets = utils.set_sigterm_handler
    try:
        signal.signal(signal.SIGTERM, heed)
        vars(utils)["set_sigterm_handler"] = lambda handler: None
        yield
    except BaseException:
        if raised is None:
            raise
    finally:
        vars(utils)["set_sigterm_handler"] = sets
        if raised is None:
            signal.signal(signal.SIGTERM, ours)
    if raised is not None:
        raise raised


class Folder:
    """A temporary folder of a private Ray instance; making one sweeps those of drivers that died.

    parent: where it is made; None: where Ray's own files go.
    """

    def __init__(self, parent: Path | None = None) -> None:
        if parent is None:
            parent = Path(tempfile.gettempdir())
            if len(os.fsencode(parent)) > ROOM:
                parent = Path("/tmp")
        _sweep(parent)
        held = None
        while held is None:  # a sweep may come between the making and the lock
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            (self.path / MARK).touch()
            held = _lock(self.path)
        self._held = held

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        held = _lock(folder)
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            held.close()


def _lock(folder: Path) -> TextIO | None:
    """The lock on a folder of ours; None where another holds it, or where it isn't ours."""
    try:
        file = (folder / MARK).open("r+")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
