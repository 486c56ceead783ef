"""Runs a round's parts as Ray actors: hosts with fractional CPUs and GPUs, a coordinator per lane.

The proxy set lies once in the object store and weights that all need are put once; messages go from
host to coordinator by reference. The driver passes references on and reads the small reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fedsim.config import Demand, RunConfig
from fedsim.data.federation import Federation
from fedsim.errors import FedsimError, RunError
from fedsim.executor import Batch, Opening
from fedsim.runtime.actors import CoordinatorActor, HostActor
from fedsim.runtime.cluster import Cluster, connect, hosts
from fedsim.runtime.ranks import RankActor
from fedsim.types import Closing
from fedsim.world import World


class OnRay:
    """The executor on a Ray cluster."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._actors: list[Any] = []
        self._received: dict[int, list[Any]] = {}

    def lanes(self, config: RunConfig) -> int:
        return min(config.runtime.parallel_methods, len(config.methods))

    def connect(self, config: RunConfig) -> None:
        self._cluster = connect(config)
        self._number = hosts(config, self._cluster)

    def start(self, config: RunConfig) -> None:
        runtime = config.runtime
        lanes = self.lanes(config)
        self._coordinators = [
            self._actor(CoordinatorActor, runtime.coordinator, config) for _ in range(lanes)
        ]
        self._hosts = [self._actor(HostActor, runtime.participant, config) for _ in range(self._number)]
        peers = config.student.engine.ranks - 1
        self._peers = [
            [self._actor(RankActor, runtime.coordinator, config) for _ in range(peers)] for _ in range(lanes)
        ]
        # A participant stays with its host, so that its specialist stays in memory.
        self._home = {k: k % self._number for k in range(config.participants.count)}

    def _join(self) -> list[Any]:
        """Let the ranks of every lane meet at an address of their rank 0."""
        joining = []
        for coordinator, peers in zip(self._coordinators, self._peers, strict=True):
            address, port = _get(coordinator.address.remote())
            everyone = len(peers) + 1
            joining.append(coordinator.join.remote(everyone, address, port))
            joining += [p.join.remote(rank, everyone, address, port) for rank, p in enumerate(peers, 1)]
        return joining

    def prepare(self, world: World, federation: Federation) -> None:
        public = ray.put(federation.public)
        self._shards = [ray.put(shard) for shard in federation.shards]
        self._world = world
        ready = []
        for number, host in enumerate(self._hosts):
            mine = [self._shards[k] for k, home in self._home.items() if home == number]
            ready.append(host.prepare.remote(world, public, *mine))
        models: list[str] = []
        starts: list[Any] = []
        if world.config.pretraining.steps:
            models = list(world.architectures())
            starts = [
                self._hosts[n % len(self._hosts)].pretrain.remote(model) for n, model in enumerate(models)
            ]
        ready += [host.set_starts.remote(models, *starts) for host in self._hosts]
        joining = self._join()
        for coordinator, peers in zip(self._coordinators, self._peers, strict=True):
            ready.append(coordinator.prepare.remote(world, public, models, peers, *starts))
        _get([*joining, *ready])

    def begin(self, lane: int, contender: str, finished: int, checkpoint: Path | None) -> Closing:
        private = self._shards if self._world.method(contender).gathers_private_data else []
        closing: Closing = _get(
            self._coordinators[lane].begin.remote(contender, finished, checkpoint, *private)
        )
        return closing

    def open(self, lane: int, round: int) -> Opening:
        self._received[lane] = []
        about, payload = self._coordinators[lane].open.options(num_returns=2).remote(round)
        size_kind = _get(about)
        return Opening(payload, *size_kind) if size_kind else Opening()

    def step(
        self,
        contender: str,
        round: int,
        participants: Sequence[int],
        opening: Opening,
        previous: Path | None,
        target: Path,
    ) -> Iterator[Batch]:
        pending: dict[Any, Any] = {}
        for number, host in enumerate(self._hosts):
            mine = [k for k in participants if self._home[k] == number]
            if mine:
                reports, messages = host.step.options(num_returns=2).remote(
                    contender, round, mine, opening.payload, previous, target
                )
                pending[reports] = messages
        while pending:
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            messages = pending.pop(done)
            yield Batch(_get(done), messages)

    def receive(self, lane: int, round: int, batch: Batch) -> None:
        who = [report.participant for report in batch.reports]
        # Not waited for here: the coordinator decodes while other hosts still work.
        self._received[lane].append(self._coordinators[lane].receive.remote(round, who, batch.messages))

    def close(self, lane: int, round: int, target: Path) -> Closing:
        _get(self._received[lane])
        closing: Closing = _get(self._coordinators[lane].close.remote(round, target))
        return closing

    def forget(self, contender: str) -> None:
        _get([host.forget.remote(contender) for host in self._hosts])

    def export(self, lane: int, folder: Path, card: str, tokenizer: str | None) -> None:
        _get(self._coordinators[lane].export.remote(folder, card, tokenizer))

    def stop(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _actor(self, kind: type, demand: Demand, config: RunConfig) -> Any:
        remote = ray.remote(num_cpus=demand.cpus, num_gpus=demand.gpus)(kind)
        actor = remote.remote(config.runtime.threads, demand.gpus > 0)
        self._actors.append(actor)
        return actor


def _get(refs: Any) -> Any:
    """ray.get, with our own errors as they were raised, and Ray's as one line."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        if isinstance(error.cause, FedsimError):
            raise error.cause from None
        raise
    except RayActorError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"an actor died: {reason}; the run can be resumed") from error
