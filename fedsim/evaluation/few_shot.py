"""New classes from a few examples: how far a student's features serve a task that nobody trained for.

SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning; Wang, Chao, Weinberger, van der
Maaten; 2019; arXiv 1911.04623 (its L2N variant). In an episode some classes of a held-out set are drawn, and
of each a few examples; an image is of the class whose examples' mean feature is nearest:

    f = h(x) / ‖h(x)‖,   class of x = argmin_c ‖f − mean of f over the examples of c‖

    <n>_shot   share of right classes over all episodes, n examples a class
    0_shot     image–text: share of all images to which no other class's prompt is more similar than its own,
               among all classes of the set (zero-shot classification, as in CLIP)

Nothing is trained. The same episodes for every contender; fewer examples are part of more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedsim.config import FewShot
from fedsim.seeding import generator
from fedsim.types import Examples

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner


def tried(learner: Learner, held_out: Examples, asked: FewShot, seed: int) -> dict[str, float]:
    """The measures above on labelled images."""
    (hidden,) = learner.hidden(held_out, np.arange(len(held_out)), [1.0])
    features = hidden.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rng, most = generator(seed, "few shot"), max(asked.shots)
    right = {shots: 0 for shots in asked.shots}
    for _ in range(asked.episodes):
        drawn = episode(held_out.groups, asked.ways, most + asked.queries, rng)
        queries = drawn[:, most:]
        for shots in asked.shots:
            chosen = nearest(features, drawn[:, :shots], queries.ravel())
            right[shots] += int((chosen == np.repeat(np.arange(asked.ways), asked.queries)).sum())
    total = asked.episodes * asked.ways * asked.queries
    found = {f"{shots}_shot": count / total for shots, count in right.items()}
    if "input_ids" in held_out.arrays:
        named = {column: values for column, values in held_out.arrays.items() if column != "labels"}
        found["0_shot"], _ = learner.evaluate(replace(held_out, arrays=named))
    return found


def episode(labels: np.ndarray, ways: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """Different examples of different classes, [ways, each]; only classes that have as many."""
    classes = rng.choice(usable(labels, each), ways, replace=False)
    return np.stack([rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes])


def usable(labels: np.ndarray, each: int) -> np.ndarray:
    """The classes with at least `each` examples."""
    classes, counts = np.unique(labels, return_counts=True)
    enough: np.ndarray = classes[counts >= each]
    return enough


def nearest(features: np.ndarray, examples: np.ndarray, queries: Sequence[int] | np.ndarray) -> np.ndarray:
    """Which row of examples each query is nearest to the mean of, [Q].   examples: [ways, shots]."""
    means = features[examples].mean(1)
    distances = np.linalg.norm(features[queries][:, None] - means, axis=-1)
    chosen: np.ndarray = distances.argmin(1)
    return chosen
