"""Run all benchmarks, or those named on the command line: `python -m benchmarks codec step`."""

from __future__ import annotations

import sys

from benchmarks import analysis_load, codec, large, memory, peers, rounds, startup, step, tokens

BENCHMARKS = {
    "codec": codec.main,
    "tokens": tokens.main,
    "large": large.main,
    "step": step.main,
    "rounds": rounds.main,
    "startup": startup.main,
    "memory": memory.main,
    "analysis": analysis_load.main,
    "peers": peers.main,
}
OPTIONAL = ("peers",)
"""Only where they are named: they install other frameworks."""

if __name__ == "__main__":  # worker processes import this file as well
    for name in sys.argv[1:] or [name for name in BENCHMARKS if name not in OPTIONAL]:
        if name not in BENCHMARKS:
            raise SystemExit(f"benchmarks: {name!r} is not one of {', '.join(BENCHMARKS)}")
        BENCHMARKS[name]()
