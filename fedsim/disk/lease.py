"""Keeps two runs out of one folder of an object store, which knows no locks.

Each run keeps an object there and writes a new number into it every few seconds. Who comes and finds
another's object watches it: if it changes, that run is alive, and the new one gives way. If it does not
change for long enough, that run has died and its object is removed. Of two that come at the same
moment, at least one gives way. No clocks are compared. What is not noticed is a run that is halted
for longer than that and then goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time

from fedsim.disk.storage import RemotePath, StorageError
from fedsim.errors import ConfigError

RENEW_S = 4.0
EXPIRES_S = 15.0
"""How long a run may be silent; so long `--resume` waits after a crash."""


class Lease:
    """Held until `release`. Raises ConfigError where another run works in the folder."""

    def __init__(self, folder: RemotePath) -> None:
        self._folder = folder
        self._own = folder / f".lock-{secrets.token_hex(8)}"
        self._numbers = itertools.count()
        self._ended = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        try:
            self._outlive_others()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have the folder."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError, StorageError):  # removed with its folder, or it expires
            self._own.unlink()

    def _outlive_others(self) -> None:
        seen = self._others()
        until = time.monotonic() + EXPIRES_S
        while seen and time.monotonic() < until:
            time.sleep(min(1.0, EXPIRES_S / 10))
            now = self._others()
            if any(seen.get(file) != number for file, number in now.items()):
                raise ConfigError("output", str(self._folder), "a folder that no other run is working in")
            seen = now  # one that has gone let go of it
        for file in seen:
            file.unlink()

    def _others(self) -> dict[RemotePath, str]:
        found: dict[RemotePath, str] = {}
        for file in self._folder.glob(".lock-*"):
            if file != self._own:
                try:
                    found[file] = file.read_text()
                except FileNotFoundError:
                    continue  # released since it was listed
                except StorageError:
                    found[file] = ""  # being written, so that it will be another next time
        return found

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self._renew()
            except StorageError:
                continue  # a run that can't write learns it elsewhere

    def _renew(self) -> None:
        self._own.write_text(str(next(self._numbers)))
