"""Temporary folders of this machine. A process that is killed leaves its own, so whoever makes the next one
removes it."""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from fedsim.errors import RunError

PREFIX = "fedsim-"
MARK = ".fedsim-driver"
"""In every folder that is ours; its process holds a lock on it, which the kernel frees at its end."""
HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""What a lock that another holds is refused with; all else is a file system without locks."""


class Folder:
    """A temporary folder; making one sweeps those of processes that died.

    parent: where it is made; None: where temporary files go.
    Raises RunError where none can be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _sweep(parent)
        held = None
        try:
            while held is None:  # a sweep may come between the making and the lock
                self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                try:
                    (self.path / MARK).touch()
                    held = _lock(self.path)
                except OSError:
                    shutil.rmtree(self.path, ignore_errors=True)
                    raise
        except OSError as error:
            line = f"{parent}: no temporary folder can be kept there ({error.strerror})"
            raise RunError(f"{line}; TMPDIR may name one on a disk of this machine") from None
        self._held = held

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # nothing can be locked there
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
    except OSError as error:
        file.close()
        if error.errno not in HELD:
            raise
        return None
    return file
