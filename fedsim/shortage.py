"""A full disk and exhausted memory: one line that says what to change, in place of a traceback.

Libraries report both in their own ways: an OSError with its number, safetensors by Rust's text, torch
by the line of its writer, allocators by a RuntimeError.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsim.errors import FedsimError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = tuple(f"(os error {number})" for number in FULL)
_TORCH_WRITER = "inline_container"
"""torch.save only says that a position in its file is not the expected one."""
_NEARLY_FULL = 64 * 2**20
_MEMORY_TEXTS = ("allocate memory", "out of memory", "can't start new thread")
"""The last is what Python says where a thread's stack finds no room."""


def disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or what led to it, is that the disk of `folder` has no room."""
    for one in _chain(error):
        text = str(one)
        if isinstance(one, OSError) and one.errno in FULL:
            return True
        if any(part in text for part in _FULL_TEXTS):
            return True
        if _TORCH_WRITER in text and _free(folder) < _NEARLY_FULL:
            return True
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is that memory, the machine's or a GPU's, could not be had."""
    if isinstance(error, MemoryError):
        return True
    return not isinstance(error, FedsimError) and any(text in str(error) for text in _MEMORY_TEXTS)


def no_room(folder: Path) -> RunError:
    """What to say of a full disk."""
    return RunError(
        f"{folder}: the disk is full ({_free(folder) / 1e6:.1f} MB free); make room, then `--resume` "
        "continues the run"
    )


def no_memory(who: str, detail: str) -> str:
    """What to say where memory ran out.   who: the process it ran out for."""
    return (
        f"{who} ran out of memory ({detail}); a smaller batch_size or model, fewer actors on a machine "
        "(runtime.participants_per_actor) or a lower runtime.resident_mib needs less"
    )


def explained(error: BaseException, folder: Path) -> RunError | None:
    """The error in one line if it is a shortage that this process met; None for all others."""
    if isinstance(error, FedsimError):
        return None
    if disk_full(error, folder):
        return no_room(folder)
    if out_of_memory(error):
        return RunError(no_memory("this process", first_line(error)) + "; the run can be resumed")
    return None


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Raise RunError where what is written below `folder` finds no room."""
    try:
        yield
    except FedsimError:
        raise
    except Exception as error:
        if not disk_full(error, folder):
            raise
        raise no_room(folder) from error


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a long story."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _free(folder: Path) -> int:
    """Bytes that are left where `folder` is or would be."""
    there = next((f for f in (folder, *folder.absolute().parents) if f.exists()), Path("/"))
    return shutil.disk_usage(there).free
