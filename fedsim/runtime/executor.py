"""Runs a round's parts as Ray actors: hosts with fractional CPUs and GPUs, a coordinator per lane.

The proxy set lies once in the object store and weights that all need are put once; messages go from
host to coordinator by reference, weights on one machine through its shared memory (`mail`). The driver passes
references on and reads the small reports.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from fedsim import shortage
from fedsim.config import RunConfig
from fedsim.data.federation import Federation
from fedsim.disk.storage import AnyPath
from fedsim.errors import CoordinatorLostError, FedsimError, RunError
from fedsim.executor import Batch, Begun, Opening, Task, check_precision
from fedsim.methods import method_of
from fedsim.runtime import mail
from fedsim.runtime.actors import CoordinatorActor, HostActor
from fedsim.runtime.cluster import Cluster, connect
from fedsim.runtime.packing import Resources
from fedsim.runtime.ranks import RankActor
from fedsim.runtime.reservation import Reservation
from fedsim.types import COORDINATOR, Closing
from fedsim.world import World

ATTEMPTS = 3
"""How often a host's step is begun again in a new process before the run gives up."""
_DEATHS = (RayActorError, OutOfMemoryError)
"""What a call of a dead actor raises; the second where Ray killed it, because the node's memory ran low."""
_LOSSES = (*_DEATHS, ObjectLostError)
"""And what is raised where a message went with its node: large ones lie where they were made."""
LOOK_S = 5.0
"""After that long without an answer, and again, it is asked whether the actors' machines are there. Who takes
a dead actor's place may wait for one, and Ray knows only seconds after the death that its machine is lost."""

_FEW = 4
"""With so few hosts a round's end, and the beginning of the next, are asked for at its beginning: what they
wait for goes from actor to actor without waiting for this process."""


@dataclass(frozen=True)
class _Call:
    """A host's step under way."""

    host: int
    participants: list[int]
    delivery: Any


_Calls = dict[Any, _Call]
"""By the reports to come."""


@dataclass(frozen=True)
class _End:
    """What a coordinator was asked at a round's end: to learn, and to close it."""

    round: int
    learned: Any
    closed: Any


@dataclass
class _Lane:
    """A coordinator (rank 0) and the other ranks of its student.

    pending: what they were asked to do before a contender's first round, which isn't known to be done.
    delivered: the calls of this round that hosts have answered.   received: the coordinator's that take in
        what they delivered, where it is not asked to do so when it learns.
    end: of this round, where it was asked for.
    ahead: a round that was opened before anybody asked for it.
    following: its hosts' work.   stepping: their calls, where they were made then.
    """

    coordinator: Any
    peers: list[Any]
    pending: list[Any] = field(default_factory=list)
    delivered: list[_Call] = field(default_factory=list)
    received: list[Any] = field(default_factory=list)
    end: _End | None = None
    ahead: tuple[int, Opening] | None = None
    following: Task | None = None
    stepping: _Calls = field(default_factory=dict)

    def forget_the_end(self) -> None:
        """What was asked of it fails with what it waits for."""
        self.end, self.ahead, self.stepping = None, None, {}


class OnRay:
    """The executor on a Ray cluster."""

    apart = True

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._reservation: Reservation | None = None
        self._actors: list[Any] = []
        self._dead: list[Any] = []
        self._models: list[str] = []
        self._starts: list[Any] = []
        self._guard = threading.Lock()
        self._halted = False

    def lanes(self, config: RunConfig) -> int:
        return min(config.runtime.parallel_methods, len(config.methods))

    def connect(self, config: RunConfig) -> None:
        self._cluster = connect(config)
        self._reservation = Reservation(config)
        check_precision(config, config.runtime.coordinator.gpus)

    def start(self, config: RunConfig) -> None:
        assert self._reservation is not None, "connect comes first"
        self._reservation.make()
        self._config, self._plan = config, self._reservation.plan
        self._number = len(self._plan.hosts)
        # Hosts first: they have work before coordinators, and get the processes that are already up.
        self._hosts = [self._new_host(number) for number in range(self._number)]
        self._lanes = [self._new_lane(lane) for lane in range(len(self._plan.lanes))]
        # A participant stays with its host, so that its specialist stays in memory.
        self._home = self._plan.home

    def prepare(self, world: World, federation: Federation) -> None:
        self._world = world
        self._public = ray.put(federation.public)
        self._tests = ray.put({shard.participant: shard.test for shard in federation.shards})
        # One object for each host rather than for each participant: a thousand cost a second.
        self._shards = [
            ray.put([federation.shards[k] for k, home in self._home.items() if home == number])
            for number in range(self._number)
        ]
        ready = [ref for number in range(self._number) for ref in self._equip_host(number)]
        if world.config.pretraining.steps:
            self._models = list(world.architectures())
            # Owned by the driver and kept in its store, so that they outlive the hosts.
            trained = [
                self._hosts[n % self._number].pretrain.remote(model) for n, model in enumerate(self._models)
            ]
            self._starts = [ray.put(vector) for vector in _get(trained)]
        ready += [host.set_starts.remote(self._models, *self._starts) for host in self._hosts]
        for lane in self._lanes:
            self._equip_lane(lane)
        _get(ready)  # coordinators may come later: the first round begins without them

    def _new_host(self, number: int) -> Any:
        host = self._plan.hosts[number]
        return self._actor(HostActor, host.need, host.bundle)

    def _equip_host(self, number: int) -> list[Any]:
        """Hand a host its data; the public start follows where there is one already."""
        host = self._hosts[number]
        ready = [
            host.prepare.remote(self._world, self._public, self._shards[number], self._number, self._shared)
        ]
        if self._starts:
            ready.append(host.set_starts.remote(self._models, *self._starts))
        return ready

    def _new_lane(self, lane: int) -> _Lane:
        rank, (first, *others) = self._plan.rank, self._plan.lanes[lane]
        coordinator = self._actor(CoordinatorActor, rank, first)
        return _Lane(coordinator, [self._actor(RankActor, rank, bundle) for bundle in others])

    def _equip_lane(self, lane: _Lane) -> None:
        """Let the ranks of a lane meet at an address of rank 0, and hand it its data."""
        address = lane.coordinator.address.remote()
        ranks = len(lane.peers) + 1
        lane.pending = [lane.coordinator.join.remote(ranks, address)]
        lane.pending += [peer.join.remote(rank, ranks, address) for rank, peer in enumerate(lane.peers, 1)]
        lane.pending.append(
            lane.coordinator.prepare.remote(
                self._world, self._public, self._tests, self._models, lane.peers, self._shared, *self._starts
            )
        )

    def revive(self, lane: int) -> None:
        old = self._lanes[lane]
        for actor in (old.coordinator, *old.peers):
            self._kill(actor)
        self._lanes[lane] = self._new_lane(lane)
        self._equip_lane(self._lanes[lane])

    def begin(self, lane: int, contender: str, finished: int, checkpoint: AnyPath | None) -> Begun:
        private = self._shards if method_of(self._world, contender).gathers_private_data else []
        at = self._lanes[lane]
        at.forget_the_end()
        at.pending.append(at.coordinator.begin.remote(contender, finished, checkpoint, *private))
        pending = list(at.pending)

        def wait() -> Closing:
            *_, closing = self._coordinator(pending)
            assert isinstance(closing, Closing)
            return closing

        return wait

    def open(self, lane: int, round: int) -> Opening:
        at = self._lanes[lane]
        at.delivered, at.received, at.following = [], [], None
        if at.ahead is None or at.ahead[0] != round:
            # Not waited for: Ray begins the hosts' steps when it is there.
            at.ahead = round, Opening(*at.coordinator.open.remote(round))
        return at.ahead[1]

    def step(self, task: Task, following: Task | None = None) -> Iterator[Batch]:
        at = self._lanes[task.lane]
        calls, at.stepping = at.stepping or self._sent(task), {}
        at.following = following
        if self._foresees and task.opening.terms is not None:
            at.end = self._end(at, task.round, task.target, list(calls.values()))
        try:
            yield from self._batches(task, calls)
        except CoordinatorLostError:
            if calls:  # the round is repeated, and who still works in it writes to its folder
                self._ready(list(calls), len(calls))
            raise

    @property
    def _shared(self) -> str | None:
        """A folder in the shared memory of the machine that all actors are on, if they are on one."""
        folder = self._cluster.shared if self._cluster is not None else None
        return None if folder is None else str(folder.path)

    @property
    def _foresees(self) -> bool:
        """Whether a round's end is asked for at its beginning. Not with several lanes: their calls would wait
        in a host's queue for each other."""
        return self._number <= _FEW and len(self._lanes) == 1

    def _sent(self, task: Task) -> _Calls:
        """Every host's part of a task, which it may begin."""
        calls: _Calls = {}
        for number in range(self._number):
            self._send(task, number, calls)
        return calls

    def _send(self, task: Task, number: int, calls: _Calls) -> None:
        """Let a host do its part of a task."""
        mine = [k for k in task.participants if self._home[k] == number]
        if not mine:
            return
        payload, terms = task.opening.payload, task.opening.terms
        if self._silent(task):
            # Ray waits for what is handed over as it is. In a list it comes unread, and the hosts begin
            # while the coordinator still loads its libraries.
            payload, terms = None, [terms]
        # What several participants send is pooled where they are.
        shared = terms if len(mine) > 1 else None
        reports, delivery = self._hosts[number].step.remote(
            task.contender, task.round, mine, payload, task.previous, task.target, shared
        )
        calls[reports] = _Call(number, mine, delivery)

    def _batches(self, task: Task, calls: _Calls) -> Iterator[Batch]:
        starting = list(self._lanes[task.lane].pending)
        deaths = 0
        while calls:
            (done,) = self._ready([*calls, *starting], 1)
            if done in starting:
                starting.remove(done)
                self._coordinator(done)  # what is wrong there needn't wait for participants
                continue
            call = calls.pop(done)
            try:
                reports = ray.get(done)
            except _DEATHS as error:
                self._opened(task)
                # Its participants take up their checkpoints in a new process and do the step again.
                deaths += 1
                if deaths > ATTEMPTS * self._number:
                    raise RunError(
                        f"{task.contender}, round {task.round}: participants keep dying ({_line(error)})"
                    ) from error
                self._lanes[task.lane].forget_the_end()
                self._replace_host(call.host)
                self._send(task, call.host, calls)
                continue
            except (RayTaskError, ObjectLostError) as error:
                self._opened(task)
                raise _mendable(error) from None
            yield Batch(reports, call)

    def _opened(self, task: Task) -> None:
        """Raise what went wrong at the coordinator, if that is why there was nothing to work with; who is not
        there yet isn't waited for."""
        if task.opening.terms is not None:
            asked = [*self._lanes[task.lane].pending, task.opening.terms]
            self._coordinator(ray.wait(asked, num_returns=len(asked), timeout=0)[0])

    def _silent(self, task: Task) -> bool:
        """Whether a coordinator that isn't known to be there yet has nothing to tell the participants."""
        if task.opening.terms is None or not self._lanes[task.lane].pending:
            return False
        return method_of(self._world, task.contender).expect("down", task.round, COORDINATOR, 0) is None

    def _replace_host(self, number: int) -> None:
        with self._guard:  # two lanes may find the same host dead
            try:
                self._answer(self._hosts[number].alive.remote())
                return
            except _DEATHS:
                self._kill(self._hosts[number])
            self._hosts[number] = self._new_host(number)
            self._equip_host(number)

    def receive(self, lane: int, batch: Batch) -> None:
        at, call = self._lanes[lane], batch.delivery
        assert isinstance(call, _Call)
        if self._foresees:
            at.delivered.append(call)
        else:  # not waited for here: the coordinator decodes while other hosts still work
            at.received.append(at.coordinator.receive.remote(call.participants, call.delivery))

    def close(self, lane: int, round: int, target: AnyPath | None) -> Closing:
        # Nor is it waited for what was received: an actor does what it is asked for in that order.
        at = self._lanes[lane]
        end, at.end = at.end or self._end(at, round, target, at.delivered), None
        assert end.round == round
        *_, closing = self._coordinator([*at.pending, *at.received, end.learned, end.closed])
        at.pending.clear()
        self._clear_dead()
        assert isinstance(closing, Closing)
        return closing

    def _end(self, at: _Lane, round: int, target: AnyPath | None, calls: Sequence[_Call]) -> _End:
        """Ask a coordinator for a round's end, and its hosts for what follows.

        calls: of hosts, whose deliveries it takes in before it learns.
        """
        last, deliveries = round == self._config.rounds, [call.delivery for call in calls]
        learned, *opened = at.coordinator.learn.remote(
            round, last, [call.participants for call in calls], *deliveries
        )
        closed = at.coordinator.close.remote(round, target, learned)
        if not last:
            opening = Opening(*opened)
            at.ahead = round + 1, opening
            if at.following is not None:
                at.stepping = self._sent(replace(at.following, opening=opening))
        return _End(round, learned, closed)

    def forget(self, contender: str) -> None:
        for host in self._hosts:
            host.forget.remote(contender)

    def export(self, lane: int, folder: AnyPath, card: str, tokenizer: str | None) -> None:
        self._coordinator(self._lanes[lane].coordinator.export.remote(folder, card, tokenizer))

    def halt(self) -> None:
        self._halted = True
        for actor in list(self._actors):
            ray.kill(actor)

    def stop(self) -> None:
        for actor in list(self._actors):
            self._kill(actor)
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _actor(self, kind: type, need: Resources, bundle: int) -> Any:
        assert self._reservation is not None
        remote = ray.remote(**need.for_actor(), scheduling_strategy=self._reservation.strategy(bundle))(kind)
        config = self._config
        models = dict.fromkeys([config.student.model, *config.participants.models])
        actor = remote.remote(config.runtime.threads, need.gpus > 0, config.data.reads, list(models))
        self._actors.append(actor)
        if self._halted:  # a lane is replacing what `halt` has killed
            ray.kill(actor)
            raise RunError("the run was interrupted")
        return actor

    def _kill(self, actor: Any) -> None:
        ray.kill(actor)
        self._actors.remove(actor)
        self._dead.append(actor)

    def _clear_dead(self) -> None:
        """Remove what the dead have left in shared memory: once a round has ended it is read."""
        while self._dead:
            actor = self._dead.pop()
            if self._shared is not None:
                mail.clear(self._shared, actor._actor_id.hex())

    def _coordinator(self, refs: Any) -> Any:
        """`_get` for calls of a coordinator, whose death can be mended."""
        try:
            return self._answer(refs)
        except (RayTaskError, *_LOSSES) as error:
            raise _mendable(error) from None

    def _answer(self, refs: Any) -> Any:
        """ray.get, but no waiting for who has no machine any more."""
        while True:
            try:
                return ray.get(refs, timeout=LOOK_S)
            except GetTimeoutError:
                self._look()

    def _ready(self, refs: list[Any], number: int) -> list[Any]:
        """ray.wait in the same way: so many that have come."""
        while True:
            ready, _ = ray.wait(refs, num_returns=number, timeout=LOOK_S)
            if len(ready) == number:
                return list(ready)
            self._look()

    def _look(self) -> None:
        assert self._reservation is not None
        self._reservation.check()


def _get(refs: Any) -> Any:
    """ray.get, with our own errors as they were raised, and a dead actor as one line."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        raise _own(error) from None
    except _LOSSES as error:
        raise RunError(f"an actor died: {_line(error)}; the run can be resumed") from error


def _mendable(error: Exception) -> Exception:
    """CoordinatorLostError where the round can be repeated: the coordinator, one of its ranks or a message is
    lost; else the error of our code."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return CoordinatorLostError(_line(cause)) if isinstance(cause, _LOSSES) else _own(error)


def _own(error: RayTaskError) -> Exception:
    """The error as our code raised it, without Ray's wrapping, where it is one for users."""
    if isinstance(error.cause, FedsimError):
        return error.cause
    if shortage.out_of_memory(error.cause):
        actor = f"{_ROLES.get(error.function_name.partition('.')[0], 'an actor')} on {error.ip}"
        return RunError(
            shortage.no_memory(actor, shortage.first_line(error.cause)) + "; the run can be resumed"
        )
    whole: Exception = error
    return whole


_ROLES = {"HostActor": "a host of participants", "CoordinatorActor": "a coordinator", "RankActor": "a rank"}


def _line(error: Exception) -> str:
    """Why an actor died, or what else is lost. Ray's own account of low memory is forty lines long, and of
    what was raised while an actor began only the last line says what that was."""
    if isinstance(error, ObjectLostError):
        return "a message was lost with the machine that held it"
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return re.sub(r"^fedsim\.errors\.\w+: ", "", str(error).strip().splitlines()[-1])
    if not isinstance(error, OutOfMemoryError):
        return shortage.first_line(error)
    text = str(error)
    actor = re.search(r"task name=(\w+)", text)
    used = re.search(r"was (\S+GB) used / (\S+GB) limit", text)
    detail = f"Ray ended it with {used[1]} of {used[2]} in use on its node" if used else "Ray ended it"
    return shortage.no_memory(_ROLES.get(actor[1] if actor else "", "an actor"), detail)
