"""Examples of a run: where they come from, who gets them, and what everybody may see.

`plan(config)` finds every error a user can make, `build(plan)` makes the tensors:

    source → Raw (documents or pixels) → test / validation / proxy / private → participants → windows

A new source is one function `(DataConfig, Generator) -> Raw` in a file of `sources/` plus a line in
`SOURCES` (`sources/__init__.py`); a new partitioner is one function in `partition.py` plus a line in
`PARTITIONERS`. A plugin adds its own to the same two dictionaries.
"""

from fedsim.data.federation import Federation, Plan, build, overlap, plan
from fedsim.data.partition import PARTITIONERS, distribution
from fedsim.data.sources import SOURCES, Raw

__all__ = [
    "PARTITIONERS",
    "SOURCES",
    "Federation",
    "Plan",
    "Raw",
    "build",
    "distribution",
    "overlap",
    "plan",
]
