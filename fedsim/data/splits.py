"""The split that everything else rests on: no example is in two of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.config import Split
from fedsim.errors import ConfigError


def split(
    groups: np.ndarray, settings: Split, rng: np.random.Generator, *, proxy: bool = True
) -> dict[str, np.ndarray]:
    """`test`, `validation`, `proxy`, `private` → ascending positions int64, disjoint and complete.

    groups: [N] int64. Every group is spread over the parts in their proportion.
    proxy: whether the proxy set is one of the parts; it may come from elsewhere.
    Raises ConfigError for the first part that would be empty.
    """
    fractions = {"test": settings.test, "validation": settings.validation}
    if proxy:
        fractions["proxy"] = settings.proxy
    private = 1.0 - sum(fractions.values())
    parts = stratify(groups, [*fractions.values(), private], rng)
    named = dict(zip([*fractions, "private"], parts, strict=True))
    for name, part in named.items():
        if not len(part):
            value = fractions.get(name, private)
            what = "a larger fraction" if name in fractions else "smaller fractions of the others"
            field = f"data.split.{name}" if name in fractions else "data.split"
            raise ConfigError(field, value, f"{what}: the data has only {len(groups)} examples")
    return named


def stratify(groups: np.ndarray, fractions: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Deal N examples out to parts, shuffled within their group, so that every part holds its
    fraction of the whole and of every group to within about one example.

    Groups are dealt one after the other; each example goes to the part that is furthest behind.
    What rounding owes a part is thus carried from group to group: many groups of two or three
    examples don't leave a small part empty, as rounding each group on its own would.

    Returns ascending positions, int64, one array per fraction (the fractions sum to 1).
    """
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    behind = [0.0] * len(fractions)
    places = range(len(fractions))
    dealt = np.empty(len(groups), dtype=np.int64)
    for position in order:
        behind = [b + f for b, f in zip(behind, fractions, strict=True)]
        part = max(places, key=behind.__getitem__)
        behind[part] -= 1.0
        dealt[position] = part
    return [np.flatnonzero(dealt == part) for part in places]
