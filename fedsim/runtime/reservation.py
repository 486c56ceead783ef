"""What a run reserves in Ray before its first actor: a placement group of its own, or the one around it.

Every actor then lives in a bundle of it, also the one that replaces an actor that died.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedsim.config import RunConfig
from fedsim.errors import ConfigError, RunError
from fedsim.runtime.cluster import inventory
from fedsim.runtime.packing import Node, Resources, Room
from fedsim.runtime.placement import Plan, pack, plan

PATIENCE_S = 3.0
"""How long a group that fits may stay pending; a refusal is then said within 5 s."""

LAG_S = 0.3
"""After that long, Ray's numbers know of a run that has just ended."""


class Reservation:
    """A run's plan, and the placement group that holds it."""

    def __init__(self, config: RunConfig) -> None:
        """Plan, without reserving anything; raises ConfigError for what can't be placed."""
        self._config = config
        self._outer: PlacementGroup | None = ray.util.get_current_placement_group()
        self._own: PlacementGroup | None = None
        if self._outer is not None:
            self.plan = pack(config, _inside(self._outer))
        else:
            self.plan = self._plan()

    def make(self) -> None:
        """Reserve the plan's bundles; where waiting was in vain, those of a plan that fits by now.

        Raises ConfigError if nothing could be reserved.
        """
        if self._outer is not None or self._reserve(self._config.runtime.wait_s or PATIENCE_S):
            return
        self.plan = pack(self._config, inventory())  # names who finds no place, where that is the reason
        if not self._config.runtime.wait_s or not self._reserve(PATIENCE_S):
            raise ConfigError(
                "runtime.wait_s",
                self._config.runtime.wait_s,
                f"longer: Ray did not reserve in time what these actors need; {inventory().describe()}",
            )

    def check(self) -> None:
        """See that all bundles are there; those of a lost machine have as long as all had at the start.

        Raises RunError where no other machine has room for them.
        """
        group = self._outer or self._own
        assert group is not None, "make comes first"
        if not _comes(group, self._config.runtime.wait_s or PATIENCE_S):
            have = inventory().describe()
            raise RunError(
                f"a machine was lost and what is left can't hold the run: {have}; the run can be resumed"
            )

    def strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        """For the options of an actor in that bundle of the plan."""
        if self._outer is not None:  # there, a bundle is what a node is elsewhere
            return PlacementGroupSchedulingStrategy(self._outer, self.plan.bundles[bundle].node)
        return PlacementGroupSchedulingStrategy(self._own, bundle)

    def release(self) -> None:
        """Give back what is reserved, with the actors in it."""
        if self._own is not None:
            remove_placement_group(self._own)
            self._own = None

    def _plan(self) -> Plan:
        room = inventory()
        if room != room.emptied():
            time.sleep(LAG_S)
            room = inventory()
        try:
            return plan(self._config, room)
        except ConfigError:
            # Where only other jobs are in the way, they may be about to end: that is waited for.
            return pack(self._config, room.emptied())

    def _reserve(self, patience_s: float) -> bool:
        self._own = placement_group(self.plan.whole_gpus(), strategy="PACK")
        if _comes(self._own, patience_s):
            return True
        self.release()
        return False


def wait_for(bundles: Sequence[Mapping[str, float]], wait_s: float, who: str) -> None:
    """Let a cluster grow until it can hold bundles together, whose nodes others may have then.

    Raises ConfigError where it doesn't in time.   who: needs them.
    """
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        if not _comes(group, wait_s):
            expected = f"longer: Ray did not reserve in time what {who} needs; {inventory().describe()}"
            raise ConfigError("runtime.wait_s", wait_s, expected)
    finally:
        remove_placement_group(group)


def _comes(group: PlacementGroup, patience_s: float) -> bool:
    """Whether a group is whole in time. By the second, as no signal is heard while Ray waits."""
    ends = time.monotonic() + patience_s
    while not group.wait(max(0.0, min(1.0, ends - time.monotonic()))):
        if time.monotonic() >= ends:
            return False
    return True


def _inside(group: PlacementGroup) -> Room:
    """The bundles of a group, as nodes; what this process itself reserves is the first one's."""
    bundles = [Resources.from_ray(amounts) for amounts in group.bundle_specs]
    mine = Resources.from_ray(ray.get_runtime_context().get_assigned_resources())
    free = [bundles[0].less(mine), *bundles[1:]]
    nodes = tuple(Node(total, left) for total, left in zip(bundles, free, strict=True))
    return Room(nodes, ray.cluster_resources().get("CPU", 0.0), "the placement group around this run")
