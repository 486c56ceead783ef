"""What a person sees while a run works: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol, TextIO

from fedsim.results import Row


class Progress(Protocol):
    """Told by the simulation what happens; calls come from several threads."""

    stops: bool
    """Whether it may end the run where it is told of a round."""

    def phase(self, what: str) -> None:
        """A part of the run begins."""

    def note(self, what: str) -> None:
        """Something that the reader should know of, and that stays in sight."""

    def round(self, row: Row, rounds: int) -> None:
        """A contender has finished a round; `row` is the one of the rounds table."""

    def close(self) -> None:
        """The run has ended, well or not."""


class Quiet:
    """Says nothing: for notebooks and tests."""

    stops = False

    def phase(self, what: str) -> None: ...

    def note(self, what: str) -> None: ...

    def round(self, row: Row, rounds: int) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One line per event, for logs and pipes."""

    stops = False

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out, self._began = out, time.monotonic()

    def phase(self, what: str) -> None:
        self._say(what)

    def note(self, what: str) -> None:
        self._say(what)

    def round(self, row: Row, rounds: int) -> None:
        self._say(f"{row['method']} round {row['round']}/{rounds}: {_score(row)}, {_sent(row)}")

    def close(self) -> None: ...

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=self._out, flush=True)


class Live:
    """A table that is redrawn in place: one line per contender, with a bar."""

    stops = False

    def __init__(self, contenders: list[str], rounds: int) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._rounds, self._began, self._phase = rounds, time.monotonic(), ""
        self._rows: dict[str, Row | None] = dict.fromkeys(contenders)
        self._sent: dict[str, int] = dict.fromkeys(contenders, 0)
        self._guard = threading.Lock()
        self._live = RichLive(
            console=Console(stderr=True), get_renderable=self._table, refresh_per_second=4, transient=True
        )
        self._live.start()

    def phase(self, what: str) -> None:
        with self._guard:
            self._phase = what

    def note(self, what: str) -> None:
        self._live.console.print(what, markup=False, highlight=False)

    def round(self, row: Row, rounds: int) -> None:
        with self._guard:
            self._phase = "running rounds"
            self._rows[row["method"]] = row
            self._sent[row["method"]] += row["bytes_up"] + row["bytes_down"]

    def close(self) -> None:
        self._live.stop()

    def _table(self):  # type: ignore[no-untyped-def]  # rich is imported where it is used
        from rich.table import Table

        with self._guard:
            table = Table(box=None, pad_edge=False, title_justify="left", title_style="dim")
            table.title = f"{time.monotonic() - self._began:5.0f} s  {self._phase}"
            for column, justify in (
                ("contender", "left"),
                ("rounds", "left"),
                ("score", "right"),
                ("sent", "right"),
            ):
                table.add_column(column, justify=justify)  # type: ignore[arg-type]
            for name, row in self._rows.items():
                done = row["round"] if row else 0
                bar = "█" * round(12 * done / self._rounds)
                table.add_row(
                    name,
                    f"[green]{bar:<12}[/green] {done}/{self._rounds}",
                    _score(row) if row else "",
                    megabytes(self._sent[name]) if row else "",
                )
            return table


class Trials:
    """A sweep: a line for every trial that ends and, while trials work, how far they are: in a terminal a bar
    below the lines, elsewhere a line a minute."""

    def __init__(self, total: int, done: int = 0) -> None:
        """done: trials that ended in an earlier attempt."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._total, self._done, self._running, self._began = total, done, 0, time.monotonic()
        self._before: int | None = None  # rounds that earlier attempts finished
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar = Progress(
            BarColumn(30), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal, refresh_per_second=4,
        )  # fmt: skip
        self.pause = 5.0 if console.is_terminal else 60.0
        """Seconds between two calls of `working`."""
        self._task = self._bar.add_task(f"{done}/{total} trials", total=None)
        self._bar.start()
        if done:
            self.phase(f"{done} of {total} trials are done already")

    def phase(self, what: str) -> None:
        """A part of the sweep begins, or something else worth a line."""
        self._bar.console.print(f"[{time.monotonic() - self._began:6.1f} s] {what}")

    def running(self, number: int) -> None:
        """So many trials are at work."""
        self._running = number

    def working(self, rounds: int, wanted: int) -> None:
        """Rounds of all trials and contenders: so many are done, of so many. Called at the start as well."""
        elapsed = time.monotonic() - self._began
        first, self._before = self._before is None, rounds if self._before is None else self._before
        what = f"{self._done}/{self._total} trials, {self._running} running, {rounds} of {wanted} rounds"
        if rounds > self._before:
            what += f", about {duration(elapsed * (wanted - rounds) / (rounds - self._before))} left"
        self._bar.update(self._task, total=wanted, completed=rounds, description=what)
        if self._bar.disable and not first:
            self.phase(what)

    def ended(self, what: str) -> None:
        """A trial has ended for good."""
        self._done += 1
        self.phase(f"{self._done}/{self._total} {what}")

    def close(self) -> None:
        self._bar.stop()


def best(contenders: list[str], rounds: int) -> Progress:
    """A live table where there is a terminal, lines where there is none."""
    return Live(contenders, rounds) if sys.stderr.isatty() else Lines()


def duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def megabytes(size: float) -> str:
    """Bytes for people: `1.42 MB` (1 MB = 1e6 bytes), `340 kB`."""
    if size >= 1e6:
        return f"{size / 1e6:.2f} MB"
    return f"{size / 1e3:.1f} kB" if size >= 1000 else f"{size:.0f} B"


def table(summary: list[Row]) -> str:
    """The closing table of a run as text: who reached what, at which bytes."""
    if not summary:
        return "no contender has a score: no specialist was trained in any round"
    metric = summary[0]["metric"]
    arrow = "↑" if summary[0]["higher_is_better"] else "↓"
    head = ["contender", f"{metric} {arrow}", "of central", "sent up", "sent down", "virtual time", ""]
    lines = [head]
    for row in summary:
        part = row["ratio_to_centralized"]
        lines.append(
            [
                row["contender"],
                f"{row['score']:.3f}" if row["higher_is_better"] else f"{row['score']:.2f}",
                "" if part is None else f"{100 * part:.1f} %",
                megabytes(row["bytes_up"]) if row["bytes_up"] else "–",
                megabytes(row["bytes_down"]) if row["bytes_down"] else "–",
                f"{row['virtual_s']:.1f} s",
                ABOUT.get(row["contender"], ""),
            ]
        )
    return aligned(lines, left=(0, len(head) - 1))


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Rows of equally many cells as columns: those of `left` start at the same place, others end there."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


ABOUT = {
    "federated_distillation": "the student",
    "centralized": "upper bound: all data in one place",
    "proxy_only": "control: the student without knowledge",
    "solo_best": "best single institution",
    "solo_mean": "mean single institution",
    "fedavg": "averages the student's weights",
}
"""A few words beside the contenders that every run has."""


def _score(row: Row) -> str:
    score = row["score"]
    return f"{row['metric']} {score:.4g}" if score == score else f"{row['metric']} not scored"


def _sent(row: Row) -> str:
    return f"{megabytes(row['bytes_up'])} up, {megabytes(row['bytes_down'])} down"
