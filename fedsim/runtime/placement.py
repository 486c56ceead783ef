"""Which actor goes where: a plan of bundles for the hosts, the coordinators and their ranks.

`pack` fills the nodes that are there, `grow` asks for those that are not there yet, `bundles` says
what a trial of a sweep reserves. GPUs are packed here, first-fit-decreasing: Ray alone leaves an actor
of 0.8 GPUs unplaced while fragments are free elsewhere. Nothing here needs Ray.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedsim.config import Demand, RunConfig
from fedsim.errors import ConfigError
from fedsim.runtime.packing import UNIT, Bundle, Node, Packer, Resources, Room

DRIVER = Resources(cpus=UNIT // 10)
"""What the driver of a trial reserves: it prepares the data, then waits."""
AMPLE = Resources(gpus=UNIT, cpus=10**12, memory=10**12)
"""A node with one GPU that is not there yet, and that has all else."""


@dataclass(frozen=True)
class Host:
    """One actor, the participants that live in it, and its bundle."""

    participants: tuple[int, ...]
    need: Resources
    bundle: int


@dataclass(frozen=True)
class Plan:
    """lanes: per lane, the bundle of each rank of its coordinator.   rank: what each rank reserves."""

    bundles: tuple[Bundle, ...]
    hosts: tuple[Host, ...]
    lanes: tuple[tuple[int, ...], ...]
    rank: Resources

    @property
    def home(self) -> dict[int, int]:
        """Participant → number of its host."""
        return {k: number for number, host in enumerate(self.hosts) for k in host.participants}

    def whole_gpus(self) -> list[dict[str, float]]:
        """The bundles in Ray's terms, without a GPU of which another job could take the rest."""
        return [_whole(bundle.use).to_ray() for bundle in self.bundles]


def pack(config: RunConfig, room: Room, *, even: bool = True) -> Plan:
    """The plan for what is free in a room.

    even: spread hosts without a GPU over the nodes where that works out; else fill node after node.
    Raises ConfigError naming who finds no place, the demand, and what there is.
    """
    wanted, groups = config.runtime.participants_per_actor, _groups(config)

    def place(numbers: Sequence[int]) -> Plan:
        return _place(_items(config, groups, numbers), room, even)

    def fits(numbers: Sequence[int]) -> bool:
        try:
            place(numbers)
        except _NoPlaceError:
            return False
        return True

    def sensible(numbers: Sequence[int]) -> bool:
        # A process costs seconds and 200 MB, and hosts compute while coordinators wait: one per CPU.
        on_cpus = [n for n, group in zip(numbers, groups, strict=True) if not group.need.gpus]
        return sum(on_cpus) <= max(room.cpus, len(on_cpus)) and fits(numbers)

    try:
        return place(_numbers(groups, 1 if wanted == "auto" else wanted))
    except _NoPlaceError as refusal:
        nobody = refusal
    good, shares = sensible if wanted == "auto" else fits, range(1, config.participants.count + 1)
    found = bisect_left(shares, True, key=lambda share: good(_numbers(groups, share)))
    if found == len(shares):  # not even with one host per group
        try:
            return place([1] * len(groups))
        except _NoPlaceError as refusal:
            raise _refused(config, room, refusal) from None
    if wanted == "auto":
        return place(_most(groups, _numbers(groups, shares[found]), sensible))
    who = _named(config, nobody.participant)
    expected = (
        f"`auto` or at least {shares[found]}: {who} finds no place beside the others; {room.describe()}"
    )
    raise ConfigError("runtime.participants_per_actor", wanted, expected)


def grow(config: RunConfig) -> Plan:
    """The plan for a cluster that will have all that is asked for.

    Its machines are not known, so a bundle is as small as can be: one rank, one host, one shared GPU.
    """
    wanted, groups = config.runtime.participants_per_actor, _groups(config)
    items = _items(config, groups, _numbers(groups, 1 if wanted == "auto" else wanted))
    nodes = [node for item in items for node in _own_nodes(item)]
    # First those without a GPU, so that what needs none doesn't end up beside one.
    nodes.sort(key=lambda node: (node.gpus > 0, node == AMPLE))
    return _place(items, Room(tuple(Node(node, node) for node in nodes), cpus=0), even=False)


def bundles(config: RunConfig, room: Room) -> list[dict[str, float]]:
    """What a trial that runs this config reserves, in Ray's terms; the first is its driver's.

    room: of the cluster, whose other trials will end and are not counted. A GPU is reserved in part
    where only a part is needed. Raises ConfigError where the trial would not fit even alone.
    """
    found = plan(config, _beside_driver(room), even=False)
    # Ray may cut parts of two bundles from one GPU, and there NCCL refuses two ranks of a student.
    apart = {bundle for lane in found.lanes for bundle in lane} if config.student.engine.ranks > 1 else set()
    # The trial fills its bundles first-fit, as nodes are filled here: in their order everybody fits again.
    by_node = sorted(enumerate(found.bundles), key=lambda each: each[1].node)
    uses = [_whole(b.use) if index in apart else b.use for index, b in by_node]
    return [DRIVER.to_ray(), *(use.to_ray() for use in uses)]


def plan(config: RunConfig, room: Room, *, even: bool = True) -> Plan:
    """`pack`, or `grow` where the run would wait for what doesn't fit. Raises ConfigError as `pack` does."""
    waits, wanted = config.runtime.wait_s > 0, config.runtime.participants_per_actor
    try:
        now = pack(config, room, even=even)
    except ConfigError:
        if waits:
            return grow(config)
        raise
    crowded = wanted == "auto" and len(now.hosts) < config.participants.count
    return grow(config) if waits and crowded else now


@dataclass(frozen=True)
class _Item:
    """Equal actors: the ranks of one lane (members is empty), or the hosts of a group of participants."""

    need: Resources
    number: int
    members: tuple[int, ...] = ()
    lane: int = 0

    @property
    def order(self) -> tuple[object, ...]:
        """Whole GPUs first, then shared ones, then none; coordinators before hosts; large before small."""
        host = bool(self.members)
        size = self.need if host else self.need * self.number
        decreasing = (-size.gpus, -size.cpus, -size.memory)
        if self.need.gpus >= UNIT:  # the larger it is, the fewer the nodes that can hold it
            return 0, *decreasing, host, self.lane, self.members
        return 1 if self.need.gpus else 2, host, *decreasing, self.lane, self.members


@dataclass(frozen=True)
class _Group:
    """Participants with equal demands."""

    need: Resources
    members: tuple[int, ...]


class _NoPlaceError(Exception):
    """Actor `place` of an item fits nowhere; `lacks` is the field of its demand that is in the way."""

    def __init__(self, item: _Item, place: int, lacks: str) -> None:
        super().__init__()
        self.item, self.lacks = item, lacks
        self.participant = item.members[place] if item.members else None


def _groups(config: RunConfig) -> list[_Group]:
    members: dict[Resources, list[int]] = {}
    for k in range(config.participants.count):
        members.setdefault(Resources.of(_demand(config, k)), []).append(k)
    return [_Group(need, tuple(who)) for need, who in members.items()]


def _demand(config: RunConfig, participant: int | None) -> Demand:
    if participant is None:
        return config.runtime.coordinator
    return config.runtime.participant[participant % len(config.runtime.participant)]


def _numbers(groups: Sequence[_Group], share: int) -> list[int]:
    """How many hosts each group has with `share` participants per host."""
    return [-(-len(group.members) // share) for group in groups]


def _most(groups: Sequence[_Group], numbers: list[int], good: Callable[[Sequence[int]], bool]) -> list[int]:
    """From numbers of hosts that are good, group by group to the largest that still are."""
    for place, group in enumerate(groups):
        before, after = numbers[:place], numbers[place + 1 :]
        fewer = [[*before, number, *after] for number in range(len(group.members), numbers[place], -1)]
        numbers = [*fewer, numbers][bisect_left(fewer, True, key=good)]
    return numbers


def _items(config: RunConfig, groups: Sequence[_Group], numbers: Sequence[int]) -> list[_Item]:
    rank, ranks = Resources.of(config.runtime.coordinator), config.student.engine.ranks
    lanes = min(config.runtime.parallel_methods, len(config.methods))
    items = [_Item(rank, ranks, lane=lane) for lane in range(lanes)]
    items += [_Item(group.need, n, group.members) for group, n in zip(groups, numbers, strict=True)]
    return sorted(items, key=lambda item: item.order)


def _own_nodes(item: _Item) -> list[Resources]:
    """Nodes that hold this item and no more; a node of AMPLE where a GPU is shared."""
    if item.need.gpus % UNIT:
        return [AMPLE] * item.number
    if item.members or item.need.gpus:
        return [item.need] * item.number
    return [item.need * item.number]


def _place(items: Sequence[_Item], room: Room, even: bool) -> Plan:
    """Every actor in its bundle; raises _NoPlaceError for the first that fits nowhere."""
    try:
        return _packed(items, Packer(room, even))
    except _NoPlaceError:
        if not even:
            raise
    return _packed(items, Packer(room, even=False))


def _packed(items: Sequence[_Item], packer: Packer) -> Plan:
    hosts, lanes = [], {}
    for item in items:
        if item.members:
            for place in range(item.number):
                bundle = packer.host(item.need)
                if bundle is None:
                    raise _NoPlaceError(item, place, packer.lacks(item.need))
                hosts.append(Host(item.members[place :: item.number], item.need, bundle))
        else:
            lanes[item.lane] = _packed_lane(item, packer)
            rank = item.need
    hosts.sort(key=lambda host: host.participants)
    return Plan(tuple(packer.bundles), tuple(hosts), tuple(lanes[lane] for lane in sorted(lanes)), rank)


def _packed_lane(item: _Item, packer: Packer) -> tuple[int, ...]:
    """The ranks of a lane: in one bundle, so on one node, where there is such a node."""
    whole = item.need.gpus % UNIT == 0
    if whole and item.number > 1:
        bundle = packer.together(item.need * item.number)
        if bundle is not None:
            return (bundle,) * item.number
    found = []
    for place in range(item.number):
        bundle = packer.together(item.need) if whole else packer.rank(item.need, item.lane)
        if bundle is None:
            raise _NoPlaceError(item, place, packer.lacks(item.need))
        found.append(bundle)
    return tuple(found)


def _refused(config: RunConfig, room: Room, refusal: _NoPlaceError) -> ConfigError:
    demand, lacks = _demand(config, refusal.participant), refusal.lacks
    who = _named(config, refusal.participant)
    field, entries = "runtime.coordinator", len(config.runtime.participant)
    if refusal.participant is not None:
        field = "runtime.participant" + (f".{refusal.participant % entries}" if entries > 1 else "")
    value, there_is = getattr(demand, lacks), room.describe(memory=lacks == "memory_mib")
    most = max((_amount(node.total, lacks) for node in room.nodes), default=0)
    if value > most:
        have = f"{room.name} has no GPU" if lacks == "gpus" and not most else there_is
        expected = f"at most {most:g} for {who}: {have}"
    else:
        expected = f"less, or a larger cluster: {who} finds no place beside the others; {there_is}"
    return ConfigError(f"{field}.{lacks}", value, expected)


def _named(config: RunConfig, participant: int | None) -> str:
    """Who it is and what it asks for."""
    asked = ", ".join(f"{name} {amount:g}" for name, amount in _demand(config, participant) if amount)
    who = "the coordinator" if participant is None else f"participant {participant}"
    return f"{who} ({asked})" if asked else who


def _amount(resources: Resources, field: str) -> float:
    """In the unit of that field of a Demand."""
    amounts = {"gpus": resources.gpus / UNIT, "cpus": resources.cpus / UNIT, "memory_mib": resources.memory}
    return amounts[field]


def _whole(use: Resources) -> Resources:
    """With the rest of its GPU."""
    return replace(use, gpus=-(-use.gpus // UNIT) * UNIT)


def _beside_driver(room: Room) -> Room:
    """An empty room without what the driver of a trial reserves, on the first node that has it."""
    nodes = list(room.emptied().nodes)
    for place, node in enumerate(nodes):
        if node.free.cpus >= DRIVER.cpus:
            nodes[place] = replace(node, free=node.free.less(DRIVER))
            break
    return replace(room, nodes=tuple(nodes))
