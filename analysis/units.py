"""Numbers as people read them. Bytes are decimal (1 MB = 10⁶ B), as links and bills count them."""

from __future__ import annotations

import math

PERCENTAGES = ("accuracy", "attack success")
"""What is a share, and read in percent."""
_PREFIXES = ("B", "kB", "MB", "GB", "TB", "PB")


def significant(value: float, digits: int = 3) -> str:
    """`0.01234` → `0.0123`, `1234.5` → `1,234`: digits before the point are never rounded away."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    # The rounded value decides, so that 9.999 is 10.0 and not 10.00.
    decimals = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    return f"{value:,.{max(0, decimals)}f}"


def bytes_text(count: float) -> str:
    """`1_234_000` → `1.23 MB`."""
    if not math.isfinite(count):
        return "–"
    power = min(len(_PREFIXES) - 1, int(math.log10(count) / 3)) if count >= 1 else 0
    # 999,999 B would otherwise read 1,000 kB.
    if power + 1 < len(_PREFIXES) and float(f"{count / 1000**power:.3g}") >= 1000:
        power += 1
    scaled = count / 1000**power
    return f"{scaled:.0f} B" if power == 0 else f"{significant(scaled)} {_PREFIXES[power]}"


def seconds_text(seconds: float) -> str:
    """`0.012` → `12.0 ms`, `754` → `12.6 min`."""
    if not math.isfinite(seconds):
        return "–"
    divisor, unit = time_unit(seconds)
    return f"{significant(seconds / divisor)} {unit}"


def time_unit(longest: float) -> tuple[float, str]:
    """The unit in which a span of that many seconds reads best: seconds in it, and its name."""
    if longest >= 2 * 86_400:
        return 86_400.0, "days"
    if longest >= 7_200:
        return 3_600.0, "h"
    if longest >= 120:
        return 60.0, "min"
    if longest >= 0.1 or longest == 0:
        return 1.0, "s"
    return (1e-3, "ms") if longest >= 1e-4 else (1e-6, "µs")


def score_text(score: float, metric: str) -> str:
    """Shares as a percentage; anything else with one decimal, below ten with three digits."""
    if not math.isfinite(score):
        return "–"
    if metric in PERCENTAGES:
        return f"{score:.1%}"
    return f"{score:,.1f}" if abs(score) >= 10 else significant(score)


def percent_text(ratio: float) -> str:
    """`0.873` → `87%`; a tenth of a percent where it matters, close to the bound."""
    if not math.isfinite(ratio):
        return "–"
    return f"{ratio:.1%}" if 0.95 <= ratio < 1.05 and ratio != 1 else f"{ratio:.0%}"


def byte_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Ticks around low … high (both above zero) with their names, for a logarithmic axis.

    Decades; within less than two of them 1, 2 and 5 of each; within a factor of two all of 1 to 9.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = range(1, 10) if high / low < 2 else (1, 2, 5) if high / low < 100 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return ticks, [bytes_text(tick).replace(".00", "").replace(".0", "") for tick in ticks]
