"""The last finished round of every contender on disk, and the lock that keeps two runs apart.

    checkpoints/<contender>/round-0003/          state of coordinator and specialists
    checkpoints/<contender>/round-0003.json      rows of the rounds table, since the checkpoint before
    checkpoints/<contender>/round-0003.arrow     their part of the other tables

A state is written to `round-0003.partial/` and becomes final by one rename, so a process may die
at any moment: what has no final name does not exist. In an object store, which has no rename, states are
written to `round-0003/` itself; there and here rounds exist once their rows do. States of older rounds
are removed, their rows stay; the tables are made of the rows.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path

from fedsim.disk import storage
from fedsim.disk.lease import Lease
from fedsim.disk.scratch import HELD
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.records import Records
from fedsim.results import Row, joined, write_json, write_part

PARTS = ("participants", "messages", "sections", "measures")
"""Tables whose rows can be many: they are never all in memory."""


class Lock:
    """Held while a process works in a folder; the kernel frees it however the process ends."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            expected = "a folder that no other run is working in"
            if error.errno not in HELD:
                expected = f"a folder where files can be locked ({error.strerror})"
            raise ConfigError("output", str(folder), expected) from None

    def release(self) -> None:
        self._file.close()


def hold(folder: AnyPath) -> Lock | Lease:
    """Keep other runs out of a folder until `release`; raises ConfigError where one is at work."""
    return Lock(folder) if isinstance(folder, Path) else Lease(folder)


class Checkpoints:
    """Finished rounds of one contender."""

    def __init__(self, folder: AnyPath, contender: str) -> None:
        self.folder = folder / "checkpoints" / contender
        self.folder.mkdir(parents=True, exist_ok=True)
        self._earliest: int | None = None  # whose state may be there; not known before somebody looks

    def finished(self) -> int:
        """The last finished round; −1 where not even the start was recorded.

        Raises ConfigError for what an older version wrote, which kept rows otherwise.
        """
        last = last_round(self.folder)
        if last >= 0 and not self._part(last).exists():
            folder = str(self.folder.parent.parent)
            raise ConfigError("output", folder, "a run that was begun with this version, to be resumed")
        return last

    def state(self, round: int) -> AnyPath:
        """Folder of the states at the end of a round."""
        return self.folder / f"round-{round:04d}"

    def partial(self, round: int) -> AnyPath:
        """Folder to write a round's states to; what an earlier attempt left there is removed."""
        folder = storage.staged(self.state(round))
        storage.remove(folder)
        folder.mkdir()
        return folder

    def discard(self) -> None:
        """Remove what an attempt left half done; another may make its checkpoints at other rounds."""
        for folder in self.folder.glob("round-*.partial"):
            storage.remove(folder)

    def settle(self, round: int) -> None:
        """Give a round's states their final name: the next round may begin with them, before its rows
        are written."""
        partial = storage.staged(self.state(round))
        if partial.exists():
            self._carry(self.state(round - 1), partial)
            storage.settle(self.state(round))

    def commit(self, round: int, records: Sequence[Records]) -> None:
        """Make a round final, and those since the last checkpoint. The rows' file comes last: it is what says
        that they exist.   records: of all of them, in order.
        """
        self.settle(round)
        write_part(
            self._part(round), {table: joined([getattr(r, table) for r in records]) for table in PARTS}
        )
        write_json(self.folder / f"round-{round:04d}.json", [r.round for r in records], indent=None)
        for earlier in self._outdated(round):
            storage.remove(self.state(earlier))

    def _outdated(self, round: int) -> Sequence[int]:
        """The rounds whose states nobody needs once this one is final; in a store the next may be writing its
        own already. The folder, which has two files more with every round, is looked through once."""
        earliest, self._earliest = self._earliest, round
        if earliest is not None:
            return range(earliest, round)
        return [r for r in map(_round, self.folder.glob("round-*[0-9]")) if r < round]

    @staticmethod
    def _carry(previous: AnyPath, partial: AnyPath) -> None:
        """Keep the specialists of those who did not work in this round."""
        there = {state.name for state in partial.glob("participant-*")}
        for state in previous.glob("participant-*"):
            if state.name not in there:
                storage.carry(state, partial / state.name)

    def rounds(self) -> list[Row]:
        """The rows of the rounds table, in order."""
        found = (json.loads(file.read_text(encoding="utf-8")) for file in self._files())
        # One alone is of an older version, whose rounds had a file each.
        return [_with_nan(row) for rows in found for row in (rows if isinstance(rows, list) else [rows])]

    def parts(self) -> list[AnyPath]:
        """The files that make up the other tables, in order."""
        return [self._part(_round(file)) for file in self._files()]

    def _part(self, round: int) -> AnyPath:
        return self.folder / f"round-{round:04d}.arrow"

    def _files(self) -> list[AnyPath]:
        return sorted(self.folder.glob("round-*.json"), key=_round)


def last_round(folder: AnyPath) -> int:
    """The last finished round of a contender, by what lies in its folder; −1 where there is none."""
    return max(map(_round, folder.glob("round-*.json")), default=-1)


def _round(file: AnyPath) -> int:
    return int(file.stem.removeprefix("round-"))


def _with_nan(row: Row) -> Row:
    """JSON has no NaN: it was written as null."""
    return {k: float("nan") if v is None else v for k, v in row.items()}
