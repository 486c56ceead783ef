"""Sums whose bits don't depend on the order of arrival.

Float addition is not associative: (1 + 2⁻⁵³) + 2⁻⁵³ is 1, 1 + (2⁻⁵³ + 2⁻⁵³) is not. A simulation
in which messages arrive in another order, because a link was slower or a run was resumed, would
end with other weights. Integer addition is associative, so everything here is summed as int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fedsim.types import Responses

FRACTION_BITS = 44
"""The resolution of a FixedPointSum is 2^−44 (6e-14), which leaves sums below 2^19 in an int64."""

_INT64_MAX = 2**63 - 1
_CHUNK = 1 << 15  # elements converted at a time: 256 KiB, which stay in a core's own cache

# Adding this to |x| < 2^51 rounds x to an integer, half to even, and leaves that integer in the low bits
# of the sum: the bits of the float, taken as an integer, are _ROUNDER_BITS + x.
_ROUNDER = 1.5 * 2.0**52
_ROUNDER_BITS = int(np.float64(_ROUNDER).view(np.int64))
_ROUNDER_LIMIT = 2.0**51

_SMALLEST_BITS = 1074  # every float is a multiple of 2^−1074


class FixedPointSum:
    """Σ w·x over vectors x [size], in fixed point: int64 multiples of 2^−44.

    Every product w·x is rounded once, on its own, to that grid; the additions are exact. The sum
    of the largest |w·x| of the vectors must stay below 2^19. So give weights that sum to about 1
    (n_k / n where the total is known) rather than the n_k themselves.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._total: np.ndarray | None = None  # int64; none yet, so that an empty sum is cheap to send
        self._shared = False  # whether another sum has the same array, which then isn't written to
        self._extra = 0  # how many times every element holds _ROUNDER_BITS, modulo 2^64
        self._scratch: np.ndarray | None = None
        self._weight = 0  # in multiples of the smallest float: exact as well
        self._bound = 0

    def add(
        self, vector: np.ndarray | Sequence[np.ndarray], weight: float = 1, bound: float | None = None
    ) -> None:
        """Add weight × vector ([size] float32 or float64; or in pieces, one after the other).

        bound: what no magnitude in it exceeds; absent: the largest is looked for.
        Raises ValueError, and adds nothing, if the shape differs, a number isn't finite, the
        weight is negative, or the sum could leave the range.
        """
        pieces = [vector] if isinstance(vector, np.ndarray) else vector
        if any(piece.ndim != 1 for piece in pieces) or sum(map(len, pieces)) != self._size:
            shapes = ", ".join(str(list(piece.shape)) for piece in pieces)
            raise ValueError(f"a vector {shapes}, the sum has {[self._size]}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight {weight} must be finite and not negative")
        scale = float(weight) * 2.0**FRACTION_BITS
        if bound is None:
            extremes = [extreme for piece in pieces if len(piece) for extreme in (piece.max(), -piece.min())]
            bound = float(np.max(extremes, initial=0.0))  # NaN wins
        most = bound * scale
        if not math.isfinite(most):
            raise ValueError(f"the vector's largest number is {bound}, its weight {weight}")
        together = self._bound + int(most) + 1
        if together > _INT64_MAX:
            raise ValueError(f"{bound:g} × {weight:g} takes the sum out of ±2^{63 - FRACTION_BITS}")
        first = self._total is None
        if self._total is None:
            self._total = np.empty(self._size, np.int64)
        elif self._shared:
            self._total, self._shared = self._total.copy(), False
        small = most < _ROUNDER_LIMIT
        if self._scratch is None:
            self._scratch = np.empty(min(_CHUNK, self._size))
        end = 0
        for piece in pieces:
            for start in range(0, len(piece), _CHUNK):
                some = piece[start : start + _CHUNK]
                begin, end = end, end + len(some)
                total, part = self._total[begin:end], self._scratch[: len(some)]
                part[...] = some
                part *= scale
                if small:
                    part += _ROUNDER
                    rounded = part.view(np.int64)
                else:
                    rounded = np.rint(part, out=part).astype(np.int64)
                if first:
                    total[...] = rounded
                else:
                    total += rounded
        self._extra += small
        self._bound = together
        numerator, denominator = float(weight).as_integer_ratio()  # the latter is a power of two
        self._weight += numerator << (_SMALLEST_BITS + 1 - denominator.bit_length())

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_scratch": None}

    def merge(self, other: FixedPointSum) -> None:
        """Add what another sum has gathered: the bits are those of one sum over everything.

        Raises ValueError, and adds nothing, if the size differs or the sum could leave the range.
        """
        if other._size != self._size:
            raise ValueError(f"a sum of {other._size} can't be added to one of {self._size}")
        bound = self._bound + other._bound
        if bound > _INT64_MAX:
            raise ValueError(f"together the sums could leave ±2^{63 - FRACTION_BITS}")
        if other._total is not None:
            if self._total is None:
                self._total, self._shared, other._shared = other._total, True, True
            elif self._shared:
                self._total, self._shared = self._total + other._total, False
            else:
                self._total += other._total
        self._extra += other._extra
        self._bound = bound
        self._weight += other._weight

    @property
    def weight(self) -> Fraction:
        """Σ w, exactly."""
        return Fraction(self._weight, 1 << _SMALLEST_BITS)

    def value(self) -> np.ndarray:
        """Σ w·x, [size] float64."""
        return self._over(1.0)

    def mean(self) -> np.ndarray:
        """Σ w·x / Σ w, [size] float64. Raises ValueError if the weights sum to 0."""
        if not self._weight:
            raise ValueError("the mean of nothing: the weights sum to 0")
        return self._over(float(self.weight))

    def _over(self, weight: float) -> np.ndarray:
        """The sum ÷ a weight, [size] float64; piece by piece, as it is added."""
        if self._total is None:
            return np.zeros(self._size)
        extra = np.int64((self._extra * _ROUNDER_BITS + 2**63) % 2**64 - 2**63)
        found = np.empty(self._size)
        for start in range(0, self._size, _CHUNK):
            part = found[start : start + _CHUNK]
            np.multiply(self._total[start : start + _CHUNK] - extra, 2.0**-FRACTION_BITS, out=part)
            part /= weight
        return found


@dataclass(frozen=True)
class Pooled:
    """The weighted mean of many participants' responses, R = n·p rows over K classes, sparse.

    samples: [n] int64 ascending.   positions: p.   classes: K.
    Row r has probability probs[j] for class ids[j], j in offsets[r]:offsets[r + 1], 0 elsewhere.
    offsets: [R + 1] int64.   ids: [nnz] int32 ascending within a row.   probs: [nnz] float32 > 0,
    a row sums to 1.   rests: [R] float32 or None: as much of each row is spread evenly over all K classes,
    on top of `probs`, which then sum to 1 − rests.
    """

    samples: np.ndarray
    positions: int
    classes: int
    offsets: np.ndarray
    ids: np.ndarray
    probs: np.ndarray
    rests: np.ndarray | None = None


class CountSum:
    """Σ w·counts over responses, per (sample, position, class), in int64.

    unit: what every participant's `levels` must divide. A row of `levels` = unit / 3 has its
        counts tripled, so that participants with finer and coarser grids weigh the same; use the
        common levels, or their least common multiple.

    Memory: one key and one number for each (row, class) that anyone named, however many
    participants named it. A row's tail is one more class: even shares of all classes add up to one.
    """

    largest: int
    """What the largest count of all adds for a weight of 1."""

    def __init__(self, positions: int, classes: int, unit: int) -> None:
        self.positions, self.classes, self.unit = positions, classes, unit
        self.largest = unit
        self._keys = np.zeros(0, np.int64)  # (sample · p + position) · (K + 1) + class, ascending
        self._mass = np.zeros(0, np.int64)
        self._bound = 0

    def add(self, responses: Responses, weights: np.ndarray) -> None:
        """Add the counts of `responses` (n samples), times integer weights ≥ 0, [n] or [n, K].

        Raises ValueError, and adds nothing, for another shape or type, a negative weight, other
        positions, classes or levels, weights per class for rows with a tail, or if a sum could leave int64.
        """
        size = len(responses.samples)
        if (responses.positions, responses.classes) != (self.positions, self.classes):
            raise ValueError(f"{responses.positions} positions × {responses.classes} classes can't be added")
        if self.unit % responses.levels:
            raise ValueError(f"levels {responses.levels} do not divide the unit {self.unit}")
        if weights.dtype.kind not in "iu" or weights.shape not in ((size,), (size, self.classes)):
            raise ValueError(f"weights {weights.dtype} {list(weights.shape)} for {size} samples")
        if responses.tail and weights.ndim == 2:
            raise ValueError("a tail belongs to no class: it can't be weighted by class")
        if size and not 0 <= int(weights.min()) <= int(weights.max()) <= _INT64_MAX:
            raise ValueError("weights must not be negative")
        bound = self._bound + int(weights.max(initial=0)) * self.largest
        if bound > _INT64_MAX:
            raise ValueError(f"weights up to {weights.max()} take the sum out of int64")
        last = int(responses.samples[-1]) if size else 0
        if (last + 1) * self.positions * (self.classes + 1) > _INT64_MAX:
            raise ValueError(f"sample {last} × {self.positions} × {self.classes} leaves int64")
        keys, mass = self._weighted(responses, weights.astype(np.int64))
        self._keys, self._mass = merge_sums(self._keys, self._mass, keys, mass)
        self._bound = bound

    def merge(self, other: CountSum) -> None:
        """Add what another sum has gathered: the result is that of one sum over everything.

        Raises ValueError, and adds nothing, for another shape or unit, or if a sum could leave int64.
        """
        mine, theirs = ((s.positions, s.classes, s.unit) for s in (self, other))
        if mine != theirs:
            raise ValueError(f"a sum of {theirs} (positions, classes, unit) can't be added to one of {mine}")
        if self._bound + other._bound > _INT64_MAX:
            raise ValueError("together the sums could leave int64")
        if len(other._keys):
            self._keys, self._mass = merge_sums(self._keys, self._mass, other._keys, other._mass)
        self._bound += other._bound

    def result(self) -> Pooled:
        """The rows, each divided by its own total. A sample without any weight in one of its rows
        (nobody delivered it, or only participants of weight 0) is left out.
        """
        row = self._keys // (self.classes + 1)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        samples, rows_present = np.unique(row[starts] // self.positions, return_counts=True)
        complete = rows_present == self.positions
        keep = np.repeat(np.repeat(complete, rows_present), np.diff(starts, append=len(row)))
        row, keys, mass = row[keep], self._keys[keep], self._mass[keep]
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        values = self._means(keys // (self.positions * (self.classes + 1)), mass)
        lengths = np.diff(starts, append=len(row))
        totals = np.add.reduceat(values, starts) if len(values) else values
        ids = keys % (self.classes + 1)
        probs = (values / np.repeat(totals, lengths)).astype(np.float32)
        rests = None
        tails = ids == self.classes
        if tails.any():
            place = np.repeat(np.arange(len(starts)), lengths)[tails]
            rests = np.zeros(len(starts), np.float32)
            rests[place] = probs[tails]
            lengths[place] -= 1
            ids, probs = ids[~tails], probs[~tails]
        return Pooled(
            samples=samples[complete],
            positions=self.positions,
            classes=self.classes,
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            ids=ids.astype(np.int32),
            probs=probs,
            rests=rests,
        )

    def _weighted(self, responses: Responses, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys and weighted counts of one message, without those of weight 0."""
        lengths = np.diff(responses.offsets)
        place = np.repeat(np.arange(responses.rows), lengths)
        sample = place // self.positions
        keys = responses.samples[sample] * self.positions + place % self.positions
        keys = keys * (self.classes + 1) + responses.ids
        weight = weights[sample] if weights.ndim == 1 else weights[sample, responses.ids]
        mass = self._values(responses.counts, self.unit // responses.levels) * weight
        if responses.tail:
            # A row's tail comes after its last class.
            ends = responses.offsets[1:]
            rows = np.arange(responses.rows)
            sample = rows // self.positions
            row = responses.samples[sample] * self.positions + rows % self.positions
            tails = responses.tails * weights[sample] * (self.unit // responses.levels)
            keys = np.insert(keys, ends, row * (self.classes + 1) + self.classes)
            mass = np.insert(mass, ends, tails)
        kept = mass > 0
        return keys[kept], mass[kept]

    def _means(self, samples: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """What the sums of some entries stand for, up to a factor per row.   samples, mass: [nnz]."""
        return mass

    def _values(self, counts: np.ndarray, times: int) -> np.ndarray:
        """What counts on a grid that is `times` coarser add for a weight of 1, int64."""
        return counts.astype(np.int64) * times


def merge_sums(
    keys: np.ndarray, mass: np.ndarray, new_keys: np.ndarray, new_mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The union of two ascending key lists, the integer mass of common keys added."""
    if not len(keys):
        return new_keys, new_mass
    both = np.concatenate((keys, new_keys))
    order = np.argsort(both, kind="stable")  # two ascending runs: a merge, not a sort
    both = both[order]
    starts = np.flatnonzero(np.diff(both, prepend=-1))
    return both[starts], np.add.reduceat(np.concatenate((mass, new_mass))[order], starts)
