"""`fedsim attack`: a finished run's folder in, its table of attacks out."""

from __future__ import annotations

import math
from statistics import fmean

from fedsim import loading, results, simulation
from fedsim.attacks import audit
from fedsim.config import RunConfig
from fedsim.disk import folders
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError
from fedsim.methods import METHODS
from fedsim.process import set_up
from fedsim.progress import Progress, Quiet
from fedsim.results import Row


def attack(
    folder: AnyPath, contender: str | None = None, shadows: int = 16, progress: Progress | None = None
) -> list[Row]:
    """Attack a contender of a run, and write `attacks.parquet` and `labels.parquet` beside its other tables.

    contender: the one whose student was exported, if absent.   shadows: an even number of runs of it; with
    0 there are only the attacks that need none.
    Raises ConfigError for what can't be attacked.
    """
    progress = progress or Quiet()
    if not (folder / "config.yaml").exists() or not folders.finished(folder):
        raise ConfigError("attack", str(folder), "the folder of a finished run")
    if shadows < 0 or shadows % 2:
        raise ConfigError("shadows", shadows, "an even number: every example is in half of them")
    config = loading.load(folder / "config.yaml")
    exported = simulation.product(config)
    name = _contender(config, contender or exported)
    data = config.data
    if data.reads == "image_text" and data.caption_column is not None and data.label_column is None:
        raise ConfigError("attack", str(folder), "a run on pairs with labels, by which losses are measured")
    set_up(config.runtime.threads)
    progress.phase("preparing data")
    asked = audit.prepare(config, name)
    if not asked.member.size:
        expected = "one that kept examples of its members' labels or domains apart, to test on"
        raise ConfigError("attack", str(folder), expected)
    world = simulation.world(asked.config, asked.federation)
    student = folder / "student" if name == exported else None
    target = audit.observe(world, asked.federation.public, asked.questions, folder, student)
    target |= audit.observe_sums(world, asked.questions, student)
    if not target:
        raise ConfigError(
            "contender", name, "one whose student was exported, or whose institutions keep theirs"
        )
    epsilon = _spent(folder, name)
    rows = audit.judge(asked, target, _shadows(asked, shadows, progress), epsilon)
    told = audit.label_rows(world, asked.federation, folder, epsilon)
    results.write_table(folder / "labels.parquet", "labels", told)
    results.write_table(folder / "attacks.parquet", "attacks", rows)
    return rows


def _contender(config: RunConfig, name: str | None) -> str:
    known = [m.contender for m in config.methods if METHODS[m.name].uses_participants]
    chosen = name or next(iter(known), None)
    if chosen not in known:
        raise ConfigError(
            "contender", chosen, "one with institutions: " + (", ".join(known) or "there is none")
        )
    return chosen


def _shadows(asked: audit.Audit, number: int, progress: Progress) -> list[audit.Observed]:
    if not number:
        return []
    if asked.config.runtime.executor == "in_process":
        return audit.shadows(asked, number, progress)
    from fedsim import runtime

    runtime.guard(asked.config.runtime.address)
    from fedsim.runtime.shadows import gather

    return gather(asked, number, progress)


def _spent(folder: AnyPath, contender: str) -> float:
    """The most that a participant's training has spent; NaN without privacy."""
    rows = results.rows(folder / "participants.parquet")
    known = [
        r["epsilon"] for r in rows if r["method"] == contender and not math.isnan(r.get("epsilon", math.nan))
    ]
    return max(known, default=math.nan)


def label_table(rows: list[Row]) -> str:
    """The rows of the labels table as text: means over institutions, and how many are told better than by
    the guess that is the same for all; empty without rows."""
    from fedsim.progress import aligned

    guess = {row["participant"]: row["error"] for row in rows if row["estimate"] == "guess"}
    lines = [["labels by", "error", "correlation", "better than the guess"]]
    for name in dict.fromkeys(row["estimate"] for row in rows):
        mine = [row for row in rows if row["estimate"] == name]
        error, alike = (fmean(row[c] for row in mine) for c in ("error", "correlation"))
        better = sum(row["error"] < guess[row["participant"]] for row in mine)
        told = "–" if name == "guess" else f"{better} of {len(mine)}"
        lines.append([name, f"{error:.3f}", f"{alike:+.3f}", told])
    return aligned(lines, left=(0,)) if rows else ""


def table(rows: list[Row]) -> str:
    """The rows as text: attack by attack, with intervals."""
    from fedsim.progress import aligned

    def told(row: Row, column: str) -> str:
        value, low, high = (row[c] for c in (column, f"{column}_low", f"{column}_high"))
        return f"{value:.3f} ({low:.3f}–{high:.3f})"

    head = ["target", "attack", "AUC", "TPR at 0.1 % FPR", "TPR at 1 % FPR", "members"]
    columns = ("auc", "tpr_at_0001", "tpr_at_001")
    lines = [
        [row["target"], row["attack"], *(told(row, column) for column in columns), str(row["members"])]
        for row in rows
    ]
    return aligned([head, *lines], left=(0, 1))
