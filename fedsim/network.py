"""Links and the virtual clock: what a run would take on the network and machines it describes.

Virtual time is arithmetic on counted bytes and counted operations, so a slow link costs virtual
seconds and no waiting, and the same run gives the same time anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedsim.config import Link, RunConfig


@dataclass(frozen=True)
class Timing:
    """Virtual seconds of one participant in one round."""

    down_s: float
    compute_s: float
    up_s: float

    @property
    def total_s(self) -> float:
        return self.down_s + self.compute_s + self.up_s


def transfer_s(link: Link, size: int | None, direction: str) -> float:
    """Seconds for a message of `size` bytes; 0 where none is sent.

    latency + 8 · size / bandwidth / (1 − loss): lost packets are sent again.
    """
    if size is None:
        return 0.0
    mbps = link.up_mbps if direction == "up" else link.down_mbps
    return link.latency_ms / 1e3 + 8 * size / (mbps * 1e6) / (1 - link.loss)


class Clock:
    """Virtual time of a run. Rounds are synchronous: the slowest, or a deadline, sets the pace."""

    def __init__(self, config: RunConfig) -> None:
        self._links = config.participants.links
        self._devices = config.participants.devices
        self._coordinator = config.student.device
        self._deadline = config.participants.deadline_s

    def timing(self, participant: int, flops: float, received: int | None, sent: int | None) -> Timing:
        """One participant's round: download (bytes), compute (operations), upload (bytes)."""
        link = self._links[participant % len(self._links)]
        device = self._devices[participant % len(self._devices)]
        return Timing(
            down_s=transfer_s(link, received, "down"),
            compute_s=flops / device.flops_per_s,
            up_s=transfer_s(link, sent, "up"),
        )

    def late(self, timing: Timing) -> bool:
        """Whether a participant needs more than the deadline."""
        return self._deadline is not None and timing.total_s > self._deadline

    def round_s(self, timings: Iterable[Timing], coordinator_flops: float, missing: bool = False) -> float:
        """The whole round: the slowest participant or the deadline, then the coordinator.

        missing: whether somebody who was asked never delivers, so that the coordinator waits for the
        deadline where there is one.
        """
        slowest = max((t.total_s for t in timings), default=0.0)
        if self._deadline is not None and (missing or slowest > self._deadline):
            slowest = self._deadline
        return slowest + coordinator_flops / self._coordinator.flops_per_s
