"""What a driver keeps in order around Ray: the handling of SIGTERM, and a private instance's folder."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ray._private import utils  # no public option leaves SIGTERM alone

from fedsim.disk.scratch import PREFIX, Folder

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


def folder() -> Folder:
    """The temporary folder of a private Ray instance."""
    parent = Path(tempfile.gettempdir())
    return Folder(parent if len(os.fsencode(parent)) <= ROOM else Path("/tmp"))
