"""Run all benchmarks, or those named on the command line: `python -m benchmarks codec step`."""

from __future__ import annotations

import sys

from benchmarks import codec, step

BENCHMARKS = {"codec": codec.main, "step": step.main}

for name in sys.argv[1:] or BENCHMARKS:
    if name not in BENCHMARKS:
        raise SystemExit(f"benchmarks: {name!r} is not one of {', '.join(BENCHMARKS)}")
    BENCHMARKS[name]()
