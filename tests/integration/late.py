"""A run whose coordinator is not there before a participant has ended its first training.

`late.py FILE FOLDER`; a program of its own, because it has to start Ray in its process.
"""

import sys
import time
from pathlib import Path

from fedsim import loading, runtime, simulation

runtime.guard(None)

from fedsim.runtime.executor import OnRay  # noqa: E402


def wait(_, folder: str) -> None:
    """At the coordinator, before it does anything else it is asked for."""
    ends = time.monotonic() + 60
    while not list(Path(folder).glob("checkpoints/*/*/participant-*")):
        assert time.monotonic() < ends, "participants wait for the coordinator"
        time.sleep(0.05)


class Late(OnRay):
    def begin(self, lane, contender, finished, checkpoint):
        at = self._lanes[lane]
        at.pending.append(at.coordinator.__ray_call__.remote(wait, str(self._config.folder.absolute())))
        return super().begin(lane, contender, finished, checkpoint)


simulation.run(loading.load(sys.argv[1], output=sys.argv[2], **{"runtime.executor": "ray"}), executor=Late())
