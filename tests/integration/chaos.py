"""A run in which a random host is killed in every round and every coordinator three times.

`chaos.py FILE FOLDER HOSTS [resume]` prints how many were killed and how long it took until the participants
of a killed host had delivered after all. HOSTS: `many`, one each, or `few`, whose rounds' ends are asked for
at their beginning.

A program of its own, because it has to start Ray in its process.
"""

import contextlib
import os
import random
import signal
import sys
import time

from fedsim import loading, runtime, simulation

runtime.guard(None)

import ray  # noqa: E402
from ray.exceptions import RayActorError  # noqa: E402

from fedsim.runtime.executor import OnRay  # noqa: E402


class Chaos(OnRay):
    """Kills by process id, as the kernel would when memory runs out."""

    def __init__(self) -> None:
        super().__init__()
        self.draw, self.killed, self.hit, self.recoveries = random.Random(1), 0, set(), []
        self.processes = {}

    def _actor(self, *arguments):
        actor = super()._actor(*arguments)
        self.processes[actor] = actor.__ray_call__.remote(lambda self: os.getpid())  # later it is at work
        return actor

    def kill(self, actor):
        with contextlib.suppress(RayActorError, ProcessLookupError):  # the other lane was first
            os.kill(ray.get(self.processes[actor]), signal.SIGKILL)
            self.killed += 1

    def step(self, task, following=None):
        batches = super().step(task, following)
        victim, began = self.draw.randrange(self._number), time.perf_counter()
        self.kill(self._hosts[victim])
        for batch in batches:
            if self._home[batch.reports[0].participant] == victim:
                self.recoveries.append(time.perf_counter() - began)
            yield batch

    def open(self, lane, round):
        if round == 1 and (lane, round) not in self.hit:
            self.hit.add((lane, round))
            ray.kill(self._lanes[lane].coordinator)  # it has no process id to be asked for: it is not up yet
            self.killed += 1
        self.kill_coordinator(lane, round, 3)  # hosts find no broadcast to begin with
        return super().open(lane, round)

    def close(self, lane, round, *arguments):
        self.kill_coordinator(lane, round, 2)
        return super().close(lane, round, *arguments)

    def kill_coordinator(self, lane, round, planned):
        if round == planned and (lane, round) not in self.hit:
            self.hit.add((lane, round))
            self.kill(self._lanes[lane].coordinator)


chaos = Chaos()
few = {"runtime__participants_per_actor": 3, "runtime__parallel_methods": 1}
hosts = {"many": {"runtime__participants_per_actor": 1}, "few": few}[sys.argv[3]]
config = loading.load(sys.argv[1], output=sys.argv[2], **hosts)
simulation.run(config, executor=chaos, resume="resume" in sys.argv)
print(f"killed {chaos.killed}; slowest recovery {max(chaos.recoveries):.1f} s")
