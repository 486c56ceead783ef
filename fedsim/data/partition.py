"""Who gets which private examples.

A partitioner is `(groups, participants, settings, rng) -> parts`: positions in `groups` ([N] int64),
one ascending int64 array per participant, disjoint, together all of them, none below
`settings.minimum`. All raise ConfigError where N is too small for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedsim.config import Partition
from fedsim.errors import ConfigError

Partitioner = Callable[[np.ndarray, int, Partition, np.random.Generator], list[np.ndarray]]

ATTEMPTS = 20
"""Draws before the minimum is met by moving examples instead of by luck."""

EVEN = 1e6
"""Concentrations above this are taken as this: already even to a thousandth, and no overflow."""


def dirichlet(
    groups: np.ndarray, participants: int, settings: Partition, rng: np.random.Generator
) -> list[np.ndarray]:
    """Each label is spread over the participants by its own draw from Dirichlet(alpha · 1), as in
    Yurochkin et al. 2019 (arXiv 1905.12022) and FedDF (Lin et al. 2020, arXiv 2006.07242).

    Deviation: those repeat the whole draw until everybody has the minimum, which need not end. Here
    `ATTEMPTS` draws are made; where none suffices, the one whose smallest part is largest is
    mended, example by example, from the largest part to the smallest.
    """
    _check(len(groups), participants, settings)
    best, smallest = np.empty(0, dtype=np.int64), -1
    for _ in range(ATTEMPTS):
        owner = np.empty(len(groups), dtype=np.int64)
        for group in np.unique(groups):
            members = rng.permutation(np.flatnonzero(groups == group))
            owner[members] = _owners(len(members), _shares(participants, settings.alpha, rng))
        size = int(np.bincount(owner, minlength=participants).min())
        if size > smallest:
            best, smallest = owner, size
        if smallest >= settings.minimum:
            break
    sizes = np.bincount(best, minlength=participants)
    parts = np.split(np.argsort(best, kind="stable"), np.cumsum(sizes)[:-1])
    return _mend(parts, settings.minimum, rng)


def iid(
    groups: np.ndarray, participants: int, settings: Partition, rng: np.random.Generator
) -> list[np.ndarray]:
    """Equal sizes, and every label spread evenly: shuffled within labels, then dealt in turn."""
    _check(len(groups), participants, settings)
    order = _by_group(groups, rng)
    return [np.sort(order[p::participants]) for p in range(participants)]


def quantity(
    groups: np.ndarray, participants: int, settings: Partition, rng: np.random.Generator
) -> list[np.ndarray]:
    """Sizes by one draw from Dirichlet(alpha · 1) over what exceeds the minimum; the same mixture of
    labels for all, up to chance."""
    _check(len(groups), participants, settings)
    spare = len(groups) - participants * settings.minimum
    extra = np.bincount(_owners(spare, _shares(participants, settings.alpha, rng)), minlength=participants)
    cuts = np.cumsum(settings.minimum + extra)[:-1]
    return [np.sort(part) for part in np.split(rng.permutation(len(groups)), cuts)]


PARTITIONERS: dict[str, Partitioner] = {
    "dirichlet": dirichlet,
    "iid": iid,
    "quantity": quantity,
}


def distribution(groups: np.ndarray, parts: Sequence[np.ndarray], n_groups: int) -> np.ndarray:
    """[participants, n_groups] int64: how many examples of each group each participant holds."""
    return np.stack([np.bincount(groups[part], minlength=n_groups) for part in parts]).astype(np.int64)


def _check(examples: int, participants: int, settings: Partition) -> None:
    if examples < participants * settings.minimum:
        if examples < settings.minimum:
            expected = f"at most {examples}, all private examples there are"
            raise ConfigError("participants.partition.minimum", settings.minimum, expected)
        at_most = examples // settings.minimum
        raise ConfigError(
            "participants.count",
            participants,
            f"at most {at_most}: {examples} private examples and a minimum of {settings.minimum} each",
        )


def _shares(participants: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.full(participants, min(alpha, EVEN)))


def _owners(examples: int, shares: np.ndarray) -> np.ndarray:
    """[examples] int64 ascending: example i lies in the interval of [0, 1) that its owner's share is."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, (np.arange(examples) + 0.5) / max(examples, 1), side="right")


def _by_group(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(len(groups))
    return order[np.argsort(groups[order], kind="stable")]


def _mend(parts: list[np.ndarray], minimum: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Move random examples from the largest part to the smallest until none is short."""
    sizes = np.array([len(part) for part in parts])
    if sizes.min() >= minimum:
        return parts
    piles = [rng.permutation(part).tolist() for part in parts]
    while sizes.min() < minimum:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        piles[poor].append(piles[rich].pop())
        sizes[poor] += 1
        sizes[rich] -= 1
    return [np.sort(np.array(pile, dtype=np.int64)) for pile in piles]
