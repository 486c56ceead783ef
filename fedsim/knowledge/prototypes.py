"""Prototypes: k centroids for each group of examples, in a space that all participants share.

A group is a class, a prompt, or (text) a concept: a cell of the proxy set's embedding. Centroid j of a
group is to mean the same everywhere, so that pooling is a weighted mean; therefore everybody's k-means
starts from the coordinator's centroids. Means over examples, weighted by their number, follow FedProto
(Tan et al., AAAI 2022, arXiv 2105.00243, equation 6); k centroids and the confidence are additions.

confidence = 1 ÷ (1 + s² ÷ v), with v the mean variance of the space and s² the spread around the
centroid, drawn towards v by SHRINKAGE pretended examples: one example alone says nothing of its spread.

Legend: n examples, r numbers of the space, m prototypes, G groups, k slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedsim.aggregation.exact import FixedPointSum
from fedsim.errors import MessageError
from fedsim.types import Prototypes

SHRINKAGE = 5.0
_ROUNDS = 20
"""Most iterations of k-means."""


def k_means(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from these centres [k, r]: (centres, each point's centre [n]).

    A centre without points stays where it is. Of equally near centres the first is taken.
    """
    centres = centres.astype(np.float64)
    nearest = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        found = _distances(points, centres).argmin(axis=1)
        if np.array_equal(found, nearest):
            break
        nearest = found
        for j in np.unique(nearest):
            centres[j] = points[nearest == j].mean(axis=0)
    return centres, nearest


def spread_out(points: np.ndarray, k: int) -> np.ndarray:
    """k of the points, far from each other, or as many as are distinct; the first is nearest to the mean.

    Nothing is drawn: farthest-first traversal (Gonzalez, 1985).
    """
    chosen = [int(_distances(points, points.mean(axis=0, keepdims=True))[:, 0].argmin())]
    away = _distances(points, points[chosen])[:, 0]
    while len(chosen) < k and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, _distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def build(
    points: np.ndarray, groups: np.ndarray, slots: int, start: Prototypes | None = None, split: bool = True
) -> Prototypes:
    """The prototypes of points [n, r] in groups [n].

    start: where k-means begins.   split: whether a group that is not in it begins with `slots` points far
        from each other. If not it gets its mean, in slot 0: further centroids of it would mean something
        else at every participant.
    """
    rows: list[tuple[int, int, np.ndarray, int, float]] = []
    variance = float(points.var(axis=0).mean()) if len(points) else 0.0
    for group in np.unique(groups):
        mine = points[groups == group]
        ids, centres = np.arange(slots), mine.mean(axis=0, keepdims=True)
        if start is not None and np.any(start.groups == group):
            ids, centres = start.slots[start.groups == group], start.centroids[start.groups == group]
        elif split:
            centres = spread_out(mine, slots)
        centres, nearest = k_means(mine, centres)
        for j in np.unique(nearest):
            around = mine[nearest == j]
            spread = float(((around - centres[j]) ** 2).mean(axis=1).sum())
            rows.append((int(group), int(ids[j]), centres[j], len(around), spread))
    counts = np.array([row[3] for row in rows], np.int64)
    spreads = (np.array([row[4] for row in rows]) + SHRINKAGE * variance) / (counts + SHRINKAGE)
    with np.errstate(invalid="ignore"):
        confidence = variance / (variance + spreads)
    return Prototypes(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32).reshape(len(rows), points.shape[1]),
        counts,
        np.nan_to_num(confidence, nan=0.5).astype(np.float32),
    )


def complete(prototypes: Prototypes, slots: int) -> Prototypes:
    """Those of groups that have `slots` of them."""
    full = np.bincount(prototypes.groups)[prototypes.groups] == slots
    return Prototypes(*(column[full] for column in _columns(prototypes)))


def nearest(points: np.ndarray, prototypes: Prototypes) -> np.ndarray:
    """The group of each point's nearest prototype, [n]."""
    groups: np.ndarray = prototypes.groups[_distances(points, prototypes.centroids).argmin(axis=1)]
    return groups


def filled(first: Prototypes, second: Prototypes) -> Prototypes:
    """The prototypes of both; where both have one, the first's."""
    slots = int(max(first.slots.max(initial=0), second.slots.max(initial=0))) + 1
    names = np.concatenate([p.groups * slots + p.slots for p in (first, second)])
    _, chosen = np.unique(names, return_index=True)  # the first of equals
    return Prototypes(
        *(np.concatenate(pair)[chosen] for pair in zip(_columns(first), _columns(second), strict=True))
    )


def checked(prototypes: Prototypes, registered: int, farthest: float) -> Prototypes:
    """What somebody with that many examples can send, its numbers within ± farthest.

    Raises MessageError where they count more examples.
    """
    counted = int(prototypes.counts.sum())
    if counted > registered:
        raise MessageError("unexpected", f"{counted} examples, registered {registered}")
    return replace(prototypes, centroids=prototypes.centroids.clip(-farthest, farthest))


class PrototypeSum:
    """Σ n c, Σ n · confidence and Σ n of each prototype: exact in any order.

    sizes: examples that participants registered with; nobody can count more than its own.
    farthest: the largest number in a centroid; a larger one, which only a stranger sends, counts as that.
    """

    def __init__(self, groups: int, slots: int, width: int, sizes: tuple[int, ...], farthest: float) -> None:
        self._shape, self._sizes, self._all = (groups, slots, width + 1), sizes, sum(sizes)
        self._farthest = farthest
        self._sum = FixedPointSum(groups * slots * (width + 1))
        self._counts = np.zeros((groups, slots), np.int64)

    def add(self, participant: int, prototypes: Prototypes) -> None:
        prototypes = checked(prototypes, self._sizes[participant], self._farthest)
        rows = np.zeros(self._shape)
        values = np.column_stack([prototypes.centroids, prototypes.confidence])
        shares = prototypes.counts[:, None] / self._all
        rows[prototypes.groups, prototypes.slots] = shares * values
        self._sum.add(rows.ravel())
        counts = self._counts.copy()  # an empty pool comes to a host in memory that it shares
        counts[prototypes.groups, prototypes.slots] += prototypes.counts
        self._counts = counts

    def merge(self, other: PrototypeSum) -> None:
        self._sum.merge(other._sum)
        self._counts = self._counts + other._counts

    def result(self) -> Prototypes:
        """Those that somebody sent, with all their examples counted."""
        groups, slots = np.nonzero(self._counts)
        counts = self._counts[groups, slots]
        values = self._sum.value().reshape(self._shape)[groups, slots] * self._all / counts[:, None]
        return Prototypes(
            groups, slots, values[:, :-1].astype(np.float32), counts, values[:, -1].astype(np.float32)
        )


def _columns(prototypes: Prototypes) -> Iterator[np.ndarray]:
    """Its fields, in their order."""
    yield from (prototypes.groups, prototypes.slots, prototypes.centroids)
    yield from (prototypes.counts, prototypes.confidence)


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances [n, k] float64."""
    return np.stack([((points - c.astype(np.float64)) ** 2).sum(axis=-1) for c in centres], axis=1)
