"""What actors of one machine hand each other through its shared memory.

Ray carries results of up to 2 MB through the driver, in copies and over sockets, and takes milliseconds for
each larger one: as long as many participants of a small model. Here the large arrays of a result are written
once, where the other end maps them; Ray carries where that is.

Pickled as Ray pickles, between actors of one run in a folder that only its user can enter. What participants
send ends before that: a message is decoded and judged at its host, or goes on as the bytes that it is.
"""

from __future__ import annotations

import mmap
import os
import pickle
import secrets
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.errors import CoordinatorLostError

LEAST, MOST = 1 << 16, 1 << 26
"""Bytes that are worth a letter, and that shared memory should hold twice for each actor."""

_LINE = 64  # where arrays begin, as numpy and torch like it


class Letter(NamedTuple):
    """Where something lies.   path: a file in shared memory, of `size` bytes.   pickled: all but its large
    arrays, of which `places` has each one's offset and length."""

    path: str
    size: int
    pickled: bytes
    places: tuple[tuple[int, int], ...]


class Outbox:
    """What one actor has sent. What is sent in a slot again takes the place of what was there, so it must be
    done with by then.

    folder: in shared memory; None: there is none, and all goes through Ray.   sender: an actor's id, by which
    `clear` knows what it has left.
    """

    def __init__(self, folder: str | None, sender: str = "") -> None:
        self._folder, self._sender = folder, sender
        self._slots: dict[Hashable, tuple[Path, mmap.mmap]] = {}

    def send(self, slot: Hashable, content: Any) -> Any:
        """A Letter, or the content itself where that is small or too large, or no room is left for it."""
        if self._folder is None:
            return content
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(content, 5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        places, end = [], 0
        for array in arrays:
            places.append((end, array.nbytes))
            end += -(-array.nbytes // _LINE) * _LINE
        if not LEAST <= end <= MOST:
            return content
        try:
            path, memory = self._slot(slot, end)
        except OSError:  # it is full
            return content
        for (start, length), array in zip(places, arrays, strict=True):
            memory[start : start + length] = array
        return Letter(str(path), len(memory), pickled, tuple(places))

    def clear(self) -> None:
        """Give all memory back; what was sent can't be read any more."""
        for path, _ in self._slots.values():
            path.unlink(missing_ok=True)
        self._slots.clear()

    def _slot(self, slot: Hashable, size: int) -> tuple[Path, mmap.mmap]:
        known = self._slots.get(slot)
        # Some machines empty their shared memory of what belongs to a user who logs out.
        if known is not None and len(known[1]) >= size and known[0].exists():
            return known
        assert self._folder is not None
        # Who has read one of a name doesn't look again, so none comes twice.
        path = Path(self._folder) / f"{self._sender}-{secrets.token_hex(8)}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, size)  # or the process is killed where it writes and there is no room
            made = path, mmap.mmap(file, size)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        if known is not None:
            known[0].unlink(missing_ok=True)
        self._slots[slot] = made
        return made


def clear(folder: str, sender: str) -> None:
    """Give back the memory that an actor has left which was killed."""
    for path in Path(folder).glob(f"{sender}-*"):
        path.unlink(missing_ok=True)


class Inbox:
    """What one actor reads. A file is mapped once, for it comes again every other round."""

    def __init__(self) -> None:
        self._mapped: dict[str, memoryview] = {}

    def read(self, content: Any, *, copy: bool) -> Any:
        """What was sent.   copy: or the arrays are good only until the slot is used again.

        Raises CoordinatorLostError where somebody else has removed it: the round is to be repeated.
        """
        if not isinstance(content, Letter):
            return content
        memory = self._memory(content)
        views = [memory[start : start + length] for start, length in content.places]
        return pickle.loads(content.pickled, buffers=[bytes(view) for view in views] if copy else views)

    def _memory(self, letter: Letter) -> memoryview:
        if letter.path not in self._mapped:
            for path in [path for path in self._mapped if not Path(path).exists()]:
                with suppress(BufferError):  # somebody still looks at it
                    self._mapped.pop(path).release()
            try:
                file = os.open(letter.path, os.O_RDONLY)
            except FileNotFoundError:
                raise CoordinatorLostError("a message was removed from shared memory") from None
            try:
                self._mapped[letter.path] = memoryview(mmap.mmap(file, letter.size, prot=mmap.PROT_READ))
            finally:
                os.close(file)
        return self._mapped[letter.path]
