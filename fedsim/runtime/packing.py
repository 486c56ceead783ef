"""Nodes and what is packed onto them: the arithmetic of placement, without Ray.

Amounts are whole numbers, so that ten tenths of a GPU are one. Packing is first-fit: callers bring
what is large first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedsim.config import Demand

UNIT = 10_000
"""One CPU or GPU in the steps in which Ray counts them."""
MIB = 2**20


@dataclass(frozen=True, order=True)
class Resources:
    """gpus, cpus: in steps of 1/UNIT.   memory: MiB."""

    gpus: int = 0
    cpus: int = 0
    memory: int = 0

    @classmethod
    def of(cls, demand: Demand) -> Resources:
        need = cls(round(demand.gpus * UNIT), round(demand.cpus * UNIT), demand.memory_mib)
        # Ray refuses a bundle of nothing.
        return need if need.gpus or need.cpus else replace(need, cpus=1)

    @classmethod
    def from_ray(cls, amounts: Mapping[str, float]) -> Resources:
        """Of Ray's names and units; what is not there is 0."""
        gpus, cpus = (round(amounts.get(name, 0.0) * UNIT) for name in ("GPU", "CPU"))
        return cls(gpus, cpus, int(amounts.get("memory", 0.0)) // MIB)

    def to_ray(self) -> dict[str, float]:
        """In Ray's names and units, without what is 0."""
        amounts = {"GPU": self.gpus / UNIT, "CPU": self.cpus / UNIT, "memory": float(self.memory * MIB)}
        return {name: amount for name, amount in amounts.items() if amount}

    def for_actor(self) -> dict[str, float]:
        """As options of a Ray actor."""
        memory = {"memory": self.memory * MIB} if self.memory else {}
        return {"num_gpus": self.gpus / UNIT, "num_cpus": self.cpus / UNIT, **memory}

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.gpus + other.gpus, self.cpus + other.cpus, self.memory + other.memory)

    def less(self, other: Resources) -> Resources:
        """What is left, and never below 0."""
        gpus, cpus, memory = self.gpus - other.gpus, self.cpus - other.cpus, self.memory - other.memory
        return Resources(max(0, gpus), max(0, cpus), max(0, memory))

    def __mul__(self, times: int) -> Resources:
        return Resources(self.gpus * times, self.cpus * times, self.memory * times)


@dataclass(frozen=True)
class Node:
    """A machine, or a bundle that is reserved already: what it has, and what of it is free."""

    total: Resources
    free: Resources


@dataclass(frozen=True)
class Room:
    """Where a run may put its actors.

    nodes: in the order in which they are filled.   cpus: of the whole cluster.   name: for messages.
    """

    nodes: tuple[Node, ...]
    cpus: float
    name: str = "the cluster"

    def emptied(self) -> Room:
        """As if nothing ran there."""
        return replace(self, nodes=tuple(replace(node, free=node.total) for node in self.nodes))

    def describe(self, memory: bool = False) -> str:
        """What there is, for people; nodes that are alike are counted."""
        kinds = list(Counter(_described(node, memory) for node in self.nodes).items())
        listed = [f"{number} × ({kind})" for kind, number in kinds[:4]]
        if len(kinds) > 4:
            listed.append(f"{sum(number for _, number in kinds[4:])} other nodes")
        return f"{self.name} has {' + '.join(listed) or 'no node'}"


def _described(node: Node, memory: bool) -> str:
    parts = []
    for name, unit, of in (("CPUs", UNIT, "cpus"), ("GPUs", UNIT, "gpus"), ("MiB", 1, "memory")):
        total, free = getattr(node.total, of), getattr(node.free, of)
        if total and (memory or of != "memory"):
            left = f" of which {free / unit:g} free" if free != total else ""
            parts.append(f"{total / unit:g} {name}{left}")
    return ", ".join(parts) or "nothing"


@dataclass
class Bundle:
    """What several actors reserve together on one node.

    node: its index.   use: sum of its actors.   left: of its GPU, where actors share one.
    lanes: whose ranks are on that GPU.
    """

    node: int
    use: Resources = Resources()
    left: int = 0
    lanes: set[int] = field(default_factory=set)


@dataclass
class _Space:
    """What is left of a node. `part`: a part of one GPU, which only a reserved bundle has."""

    cpus: int
    memory: int
    gpus: int
    part: int

    def holds(self, need: Resources) -> bool:
        """Whether the CPUs and the memory of it are there."""
        return self.cpus >= need.cpus and self.memory >= need.memory

    def open_gpu(self, need: Resources) -> int:
        """Begin a GPU that is shared: how much of it there is, 0 if none is left."""
        if self.part >= need.gpus:
            opened, self.part = self.part, 0
        else:
            opened, self.gpus = (UNIT, self.gpus - 1) if self.gpus else (0, 0)
        return opened


class Packer:
    """Fills nodes with bundles; each method answers with the index of a bundle, or None if nothing fits."""

    def __init__(self, room: Room, even: bool) -> None:
        """even: spread hosts without a GPU over the nodes, rather than to fill one after the other."""
        self.bundles: list[Bundle] = []
        self._even = even
        self._spaces = [
            _Space(node.free.cpus, node.free.memory, *divmod(node.free.gpus, UNIT)) for node in room.nodes
        ]
        self._of_node: dict[int, int] = {}
        """Node → its bundle of hosts without a GPU."""
        self._ranks: list[int] = []
        self._hosts: list[int] = []
        """The bundles that are shared GPUs, of coordinators and of hosts."""
        self._first: dict[Resources, int] = {}
        """Where in `_hosts` the search for such a host begins: what was full stays full."""

    def together(self, need: Resources) -> int | None:
        """A bundle of its own with whole GPUs, or with none, on one node."""
        for number, space in enumerate(self._spaces):
            if space.gpus * UNIT >= need.gpus and space.holds(need):
                space.gpus -= need.gpus // UNIT
                return self._add(self._bundle(number), need)
        return None

    def rank(self, need: Resources, lane: int) -> int | None:
        """On a GPU that only coordinators share, and never two ranks of one lane: NCCL refuses that."""
        for index in self._ranks:
            if lane not in self.bundles[index].lanes and self._shares(index, need):
                break
        else:
            opened = self._open(need)
            if opened is None:
                return None
            index = opened
            self._ranks.append(index)
        self.bundles[index].lanes.add(lane)
        return self._add(index, need)

    def host(self, need: Resources) -> int | None:
        """A host's place: whole GPUs, a share of one, or beside other hosts without any."""
        if need.gpus >= UNIT:
            return self.together(need)
        return self._sharing(need) if need.gpus else self._beside(need)

    def lacks(self, need: Resources) -> str:
        """The field of a Demand that is in the way, after a method has answered None."""
        shared = max((self.bundles[index].left for index in self._hosts), default=0)
        gpus = max((max(UNIT * space.gpus, space.part) for space in self._spaces), default=0)
        if need.gpus > max(gpus, shared):
            return "gpus"
        if need.cpus > max((space.cpus for space in self._spaces), default=0):
            return "cpus"
        if need.memory > max((space.memory for space in self._spaces), default=0):
            return "memory_mib"
        return "gpus" if need.gpus else "cpus"

    def _sharing(self, need: Resources) -> int | None:
        first = self._first.get(need, 0)
        while first < len(self._hosts) and not self._shares(self._hosts[first], need):
            first += 1
        self._first[need] = first
        if first == len(self._hosts):
            opened = self._open(need)
            if opened is None:
                return None
            self._hosts.append(opened)
        return self._add(self._hosts[first], need)

    def _beside(self, need: Resources) -> int | None:
        fitting = [number for number, space in enumerate(self._spaces) if space.holds(need)]
        if not fitting:
            return None
        number = max(fitting, key=lambda n: self._spaces[n].cpus) if self._even else fitting[0]
        if number not in self._of_node:
            self._of_node[number] = self._bundle(number)
        return self._add(self._of_node[number], need)

    def _shares(self, index: int, need: Resources) -> bool:
        bundle = self.bundles[index]
        return bundle.left >= need.gpus and self._spaces[bundle.node].holds(need)

    def _open(self, need: Resources) -> int | None:
        """A GPU to be shared, on the first node that has one beside enough CPUs and memory."""
        for number, space in enumerate(self._spaces):
            opened = space.open_gpu(need) if space.holds(need) else 0
            if opened:
                return self._bundle(number, left=opened)
        return None

    def _bundle(self, node: int, left: int = 0) -> int:
        self.bundles.append(Bundle(node, left=left))
        return len(self.bundles) - 1

    def _add(self, index: int, need: Resources) -> int:
        bundle = self.bundles[index]
        space = self._spaces[bundle.node]
        space.cpus -= need.cpus
        space.memory -= need.memory
        bundle.left -= min(need.gpus, bundle.left)
        bundle.use += need
        return index
