"""Where a round's parts run: the interface, and the form that needs no cluster.

`InProcess` runs the same coordinator and hosts one after the other in this process, for debugging
and for tests; `runtime.executor.OnRay` runs them as actors. Results are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedsim.config import RunConfig
from fedsim.data.federation import Federation
from fedsim.disk.storage import AnyPath
from fedsim.errors import ConfigError, RunError
from fedsim.methods import method_of
from fedsim.types import Closing, Examples, Report, concatenate
from fedsim.world import World


@dataclass(frozen=True)
class Opening:
    """A round's broadcast, `payload`, and the intake's `terms`: whatever the executor passes on."""

    payload: Any = None
    terms: Any = None


@dataclass(frozen=True)
class Task:
    """One round of a contender's participants; `previous` and `target` are folders of states, None where
    there are none, or none is saved."""

    contender: str
    lane: int
    round: int
    participants: Sequence[int]
    opening: Opening
    previous: AnyPath | None
    target: AnyPath | None


@dataclass(frozen=True)
class Batch:
    """What a host finished: reports to read; messages, or what was pooled of them, for the coordinator."""

    reports: list[Report]
    delivery: Any


Begun = Callable[[], Closing]
"""Waits for what a coordinator says when it takes up a contender."""


class Executor(Protocol):
    """Runs the parts of a run. `lane` tells coordinators apart that work side by side."""

    apart: bool
    """Whether participants compute in other processes than this one."""

    def lanes(self, config: RunConfig) -> int:
        """How many contenders may run side by side."""

    def connect(self, config: RunConfig) -> None:
        """Reach the machines; raises ConfigError where they can't hold the run. Starts no actor."""

    def start(self, config: RunConfig) -> None:
        """Begin to bring up the processes, without waiting for them."""

    def prepare(self, world: World, federation: Federation) -> None:
        """Hand every process its data and the public start."""

    def begin(self, lane: int, contender: str, finished: int, checkpoint: AnyPath | None) -> Begun:
        """See Coordinator.begin; not waited for."""

    def open(self, lane: int, round: int) -> Opening:
        """See Coordinator.open."""

    def step(self, task: Task, following: Task | None = None) -> Iterator[Batch]:
        """See Host.step; batches come as hosts finish, in any order.

        following: what is stepped next; it may begin before this round is known to be done.
        """

    def receive(self, lane: int, batch: Batch) -> None:
        """See Coordinator.receive."""

    def close(self, lane: int, round: int, target: AnyPath | None) -> Closing:
        """See Coordinator.learn and Coordinator.close."""

    def revive(self, lane: int) -> None:
        """Replace a coordinator that was lost; `begin` follows."""

    def forget(self, contender: str) -> None:
        """A contender has finished: hosts let go of its specialists."""

    def export(self, lane: int, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        """See Coordinator.export."""

    def halt(self) -> None:
        """Make the calls of all lanes fail, those under way and those to come; `stop` follows."""

    def stop(self) -> None:
        """End everything that was started."""


def check_precision(config: RunConfig, gpus: float) -> None:
    """fp16 needs a GPU: raise ConfigError where the coordinator has none."""
    precision = config.student.engine.precision
    if precision == "fp16" and not gpus:
        raise ConfigError("student.engine.precision", precision, "fp32 or bf16 on a CPU")


class InProcess:
    """Everything in this process, in a fixed order."""

    apart = False

    def __init__(self) -> None:
        self._joined = False

    def lanes(self, config: RunConfig) -> int:
        return 1  # torch's random state is one per process: contenders must not interleave

    def connect(self, config: RunConfig) -> None:
        ranks = config.student.engine.ranks
        if ranks > 1:
            raise ConfigError("student.engine.ranks", ranks, "1 with runtime.executor: in_process")
        check_precision(config, gpus=0)

    def start(self, config: RunConfig) -> None:
        from fedsim.process import set_up
        from fedsim.student.deepspeed import join

        set_up(config.runtime.threads)
        join(0, 1, "127.0.0.1", 0)
        self._joined = True

    def prepare(self, world: World, federation: Federation) -> None:
        from fedsim.coordinator import Coordinator
        from fedsim.host import Host

        shards = {shard.participant: shard for shard in federation.shards}
        self._host = Host(world, federation.public, shards)
        starts: dict[str, np.ndarray] = {}
        if world.config.pretraining.steps:
            starts = {model: self._host.pretrain(model) for model in world.architectures()}
        self._host.set_starts(starts)
        tests = {shard.participant: shard.test for shard in federation.shards}
        self._coordinator = Coordinator(world, federation.public, starts, tests=tests)
        self._world, self._shards = world, federation.shards

    def begin(self, lane: int, contender: str, finished: int, checkpoint: AnyPath | None) -> Begun:
        private: Examples | None = None
        if method_of(self._world, contender).gathers_private_data:
            private = concatenate([shard.train for shard in self._shards])
        closing = self._coordinator.begin(contender, finished, checkpoint, private)
        return lambda: closing

    def open(self, lane: int, round: int) -> Opening:
        message = self._coordinator.open(round)
        return Opening(None if message is None else message.data)

    def step(self, task: Task, following: Task | None = None) -> Iterator[Batch]:
        for participant in task.participants:  # one by one, so that their messages don't pile up
            yield Batch(
                *self._host.step(
                    task.contender,
                    task.round,
                    [participant],
                    task.opening.payload,
                    task.previous,
                    task.target,
                )
            )

    def receive(self, lane: int, batch: Batch) -> None:
        self._coordinator.receive([report.participant for report in batch.reports], batch.delivery)

    def close(self, lane: int, round: int, target: AnyPath | None) -> Closing:
        self._coordinator.learn(round)
        return self._coordinator.close(round, target)

    def revive(self, lane: int) -> None:
        raise RunError("the coordinator of this process can't be replaced")

    def forget(self, contender: str) -> None:
        self._host.forget(contender)

    def export(self, lane: int, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        self._coordinator.export(folder, card, tokenizer)

    def halt(self) -> None: ...  # there is one lane, in the thread that was interrupted

    def stop(self) -> None:
        from fedsim.student.deepspeed import leave

        if self._joined:
            leave()
            self._joined = False
