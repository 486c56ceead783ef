"""A sum of which its parts say nothing: what everybody sends is hidden by masks that cancel in the sum.

Of every two participants a < b one adds and the other subtracts the same random numbers r_ab, modulo 2³²:

    sent    y_k = x_k + Σ_{b>k} r_kb − Σ_{a<k} r_ak       x in fixed point, 30 bits behind the point
    sum     Σ y_k = Σ x_k,  what masks of those who are missing leave is taken off

Source: Bonawitz et al., Practical Secure Aggregation (CCS 2017). Theirs are numbers that two participants
draw from a key that they agreed on, and of who is missing the others give up their halves. Here both are
drawn from the run's seed: messages and sums are those of the protocol, the agreement on keys (some 64 bytes
a pair) isn't played. Integers also make the sum the same in any order. Where only one is heard, the sum is
its own: a federation that minds asks for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedsim.errors import MessageError
from fedsim.seeding import generator
from fedsim.types import Knowledge, MaskedSums

_FRACTION = 2.0**30
"""Steps of a number: sums up to ±2 are known to 1e-9."""


@dataclass(frozen=True)
class Circle:
    """Those who hide each other in a contender's round.   members: ascending."""

    seed: int
    round: int
    contender: str
    members: tuple[int, ...]

    def between(self, a: int, b: int, size: int) -> np.ndarray:
        """r_ab [size] uint32, which a < b adds and b subtracts."""
        rng = generator(self.seed, self.round, a, b, self.contender, "mask")
        return rng.integers(0, 2**32, size, np.uint32)

    def mask(self, who: int, others: Sequence[int], size: int) -> np.ndarray:
        """What a member adds for its share in these others, [size] uint32."""
        total = np.zeros(size, np.uint32)
        for other in others:
            if other > who:
                total += self.between(who, other, size)
            elif other < who:
                total -= self.between(other, who, size)
        return total

    def hide(self, who: int, vector: np.ndarray, share: float, examples: int) -> MaskedSums:
        """share × vector as a member sends it.   vector: [size], no number above 1."""
        plain = np.rint(vector * (share * _FRACTION)).astype(np.int64).astype(np.uint32)
        return MaskedSums(plain + self.mask(who, self.members, len(vector)), examples)


class MaskedSum:
    """The mean of what members hide, by their numbers of examples.

    size: numbers of each.   sizes: the examples that participants registered with.
    """

    def __init__(self, circle: Circle, size: int, sizes: tuple[int, ...]) -> None:
        self._circle, self._sizes = circle, sizes
        self._total = np.zeros(size, np.uint32)
        self._heard: set[int] = set()

    def share(self, participant: int) -> float:
        """Its part of everybody's examples."""
        return self._sizes[participant] / sum(self._sizes)

    def add(self, participant: int, knowledge: Knowledge) -> None:
        """Raises MessageError where it counts other examples than it registered with."""
        assert isinstance(knowledge, MaskedSums)
        registered = self._sizes[participant]
        if knowledge.examples != registered:
            raise MessageError("unexpected", f"{knowledge.examples} examples, registered {registered}")
        self._total = self._total + knowledge.codes  # an empty one may be shared with others
        self._heard.add(participant)

    def merge(self, other: MaskedSum) -> None:
        self._total = self._total + other._total
        self._heard = self._heard | other._heard

    def mean(self) -> np.ndarray:
        """[size] float64. Raises ValueError where nobody was heard."""
        if not self._heard:
            raise ValueError("the mean of nobody")
        total, heard = self._total.copy(), sorted(self._heard)
        missing = [k for k in self._circle.members if k not in self._heard]
        for who in heard:
            total -= self._circle.mask(who, missing, len(total))
        mean: np.ndarray = total.view(np.int32) / _FRACTION / sum(self.share(k) for k in heard)
        return mean
