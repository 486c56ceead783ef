"""Ctrl-C and SIGTERM end a command in the same orderly way; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.disk.storage import AnyPath

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in a run; `folder` continues it with `--resume`."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        super().__init__(f"fedsim run --resume {folder} continues the run")


class Interrupts:
    """While entered, the first of `SIGNALS` raises KeyboardInterrupt in the main thread.

    It is that very type, because Ray raises it as well where a signal ends one of its waits.
    A second signal meets the system's own handling. status: what the process should exit with.
    """

    def __init__(self) -> None:
        self.status = 128 + signal.SIGINT

    def __enter__(self) -> Interrupts:
        # Who started us may have had a signal ignored, as a shell does for SIGINT in the background.
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._interrupt) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        for heeded in self._before:
            signal.signal(heeded, signal.SIG_DFL)
        raise KeyboardInterrupt
