"""The actors: a process around a plain class, and nothing else.

They import their heavy libraries in `__init__`, the code of `models` among them, while the driver still
prepares the data; `prepare` brings the data by reference. Messages leave as arrays of bytes, which Ray
moves without a copy.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from fedsim.disk.storage import AnyPath
from fedsim.intake import Pooled, Terms
from fedsim.methods import method_of
from fedsim.runtime import enter_directory
from fedsim.runtime.mail import Inbox, Letter, Outbox
from fedsim.types import Closing, Examples, Public, Report, Shard, concatenate
from fedsim.world import World

_Delivery = list[np.ndarray | str | None] | Pooled


class HostActor:
    """A `fedsim.host.Host` in a process of its own."""

    def __init__(self, threads: int, gpu: bool, modality: str, models: Sequence[str]) -> None:
        enter_directory()
        from fedsim.process import keep_memory, loading, set_up

        keep_memory()
        with loading():
            set_up(threads, gpu)
            import fedsim.host
            import fedsim.learning.learner  # noqa: F401
            from fedsim.models.factory import import_classes

            import_classes(models, modality)

    def prepare(
        self, world: World, public: Public, shards: list[Shard], neighbours: int, shared: str | None
    ) -> None:
        """neighbours: how many such actors share this machine's memory.   shared: see `Outbox`."""
        from fedsim.host import Host
        from fedsim.process import memory

        mib = world.config.runtime.resident_mib
        budget = mib * 2**20 if mib is not None else memory() / 2 / neighbours
        self._host = Host(world, public, {shard.participant: shard for shard in shards}, budget)
        self._world, self._shared, self._inbox = world, shared, Inbox()
        self._sent: dict[str, Outbox] = {}
        # What is there now stays: the collector needn't look through all of torch again and again.
        gc.freeze()

    def alive(self) -> None:
        """Answers if the process does."""

    def pretrain(self, model: str) -> np.ndarray:
        return self._host.pretrain(model)

    def set_starts(self, models: Sequence[str], *starts: np.ndarray) -> None:
        self._host.set_starts(dict(zip(models, starts, strict=True)))

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray's has no types
    def step(
        self,
        contender: str,
        round: int,
        participants: Sequence[int],
        broadcast: np.ndarray | Letter | None,
        previous: AnyPath | None,
        target: AnyPath,
        terms: Terms | list[Any] | None,
    ) -> tuple[list[Report], _Delivery | Letter]:
        """terms: in a list, a reference to what the coordinator may not have said yet."""

        def agreed() -> Terms | None:
            known: Terms | None = ray.get(terms[0]) if isinstance(terms, list) else terms
            return known

        # Not copied: participants of a method that sends letters keep nothing beyond the round.
        message: np.ndarray | None = self._inbox.read(broadcast, copy=False)
        told = None if message is None else message.data
        reports, delivery = self._host.step(contender, round, participants, told, previous, target, agreed)
        if isinstance(delivery, Pooled):
            return reports, self._outbox(contender).send(round % 2, delivery)
        return reports, [_array(sent) if isinstance(sent, bytes) else sent for sent in delivery]

    def forget(self, contender: str) -> None:
        self._host.forget(contender)
        if contender in self._sent:
            self._sent.pop(contender).clear()

    def _outbox(self, contender: str) -> Outbox:
        if contender not in self._sent:
            self._sent[contender] = _outbox(self._world, contender, self._shared)
        return self._sent[contender]


class CoordinatorActor:
    """A `fedsim.coordinator.Coordinator`: rank 0 of the student's training."""

    def __init__(self, threads: int, gpu: bool, modality: str, models: Sequence[str]) -> None:
        enter_directory()
        from fedsim.process import keep_memory, loading, set_up, yielding

        keep_memory()

        def load() -> None:
            set_up(threads, gpu)
            import fedsim.coordinator
            import fedsim.learning.learner
            import fedsim.student.deepspeed  # noqa: F401
            from fedsim.models.factory import import_classes

            import_classes(models, modality)

        with loading():
            yielding(load)  # it is hosts that have work first
        set_up(threads, gpu)  # how many threads there are is settled for each thread

    def address(self) -> tuple[str, int]:
        """Where the ranks meet: this node, a free port."""
        from fedsim.student.deepspeed import free_port

        return ray.util.get_node_ip_address(), free_port()

    def join(self, world: int, address: tuple[str, int]) -> None:
        from fedsim.student.deepspeed import join

        join(0, world, *address, patient=True)

    def prepare(
        self,
        world: World,
        public: Public,
        tests: dict[int, Examples],
        models: Sequence[str],
        peers: Sequence[Any],
        shared: str | None,
        *starts: np.ndarray,
    ) -> None:
        from fedsim.coordinator import Coordinator
        from fedsim.runtime.ranks import spread

        self._world, self._shared, self._inbox, self._sent = world, shared, Inbox(), Outbox(None)
        self._coordinator = Coordinator(
            world, public, dict(zip(models, starts, strict=True)), spread(list(peers)), tests
        )

    def begin(
        self, contender: str, finished: int, checkpoint: AnyPath | None, *private: list[Shard]
    ) -> Closing:
        self._sent.clear()
        self._sent = _outbox(self._world, contender, self._shared)
        shards = sorted((shard for some in private for shard in some), key=lambda shard: shard.participant)
        together: Examples | None = concatenate([shard.train for shard in shards]) if shards else None
        return self._coordinator.begin(contender, finished, checkpoint, together)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray's has no types
    def open(self, round: int) -> tuple[np.ndarray | Letter | None, Terms | None]:
        """The message and the intake's terms, for the hosts."""
        message = self._coordinator.open(round)
        sent = None if message is None else self._sent.send(round % 2, _array(message.data))
        return sent, self._coordinator.terms

    def receive(self, participants: Sequence[int], delivery: _Delivery | Letter) -> None:
        # A copy, for who knows how long a method looks at what it pools.
        delivery = self._inbox.read(delivery, copy=True)
        if not isinstance(delivery, Pooled):
            messages = [sent.data if isinstance(sent, np.ndarray) else sent for sent in delivery]
            self._coordinator.receive(participants, messages)
        else:
            self._coordinator.receive(participants, delivery)

    @ray.method(num_returns=3)  # type: ignore[untyped-decorator]  # Ray's has no types
    def learn(
        self, round: int, last: bool, participants: Sequence[Sequence[int]], *deliveries: _Delivery | Letter
    ) -> tuple[None, np.ndarray | Letter | None, Terms | None]:
        """Take in what was not received before, let the student learn, and open the next round: nothing that
        came of it itself, then as `open`."""
        for some, delivery in zip(participants, deliveries, strict=True):
            self.receive(some, delivery)
        self._coordinator.learn(round)
        return (None, None, None) if last else (None, *self.open(round + 1))

    def close(self, round: int, target: AnyPath, learned: None) -> Closing:
        """learned: what `learn` returns first, without which there is nothing to close."""
        return self._coordinator.close(round, target)

    def export(self, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        self._coordinator.export(folder, card, tokenizer)


def _outbox(world: World, contender: str, shared: str | None) -> Outbox:
    """For what an actor sends in a contender's rounds, in two slots: by the next round but one all is read.
    Through shared memory only where participants keep nothing that they were told, and so no view of it."""
    kept = method_of(world, contender).keeps_specialists
    return Outbox(None if kept else shared, ray.get_runtime_context().get_actor_id())


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
