"""A run in which a random host is killed in every round and every coordinator once: `chaos.py FILE`.

A program of its own, because it has to start Ray in its process.
"""

import contextlib
import os
import random
import signal
import sys

from fedsim import config, runtime, simulation

runtime.guard(None)

import ray  # noqa: E402
from ray.exceptions import RayActorError  # noqa: E402

from fedsim.runtime.executor import OnRay  # noqa: E402


class Chaos(OnRay):
    """Kills by process id, as the kernel would when memory runs out."""

    def __init__(self) -> None:
        super().__init__()
        self.draw, self.killed, self.hit = random.Random(1), 0, set()

    def kill(self, actor):
        with contextlib.suppress(RayActorError):  # the other lane was first
            os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
            self.killed += 1

    def step(self, *arguments):
        batches = super().step(*arguments)
        self.kill(self.draw.choice(self._hosts))
        yield from batches

    def close(self, lane, round, *arguments):
        if round == 2 and lane not in self.hit:
            self.hit.add(lane)
            self.kill(self._lanes[lane].coordinator)
        return super().close(lane, round, *arguments)


chaos = Chaos()
simulation.run(config.load(sys.argv[1], output=sys.argv[2]), executor=chaos)
print(f"killed {chaos.killed}")
