"""What changes from round to round, as plain functions of the round and of what was measured so far.

    curriculum   which proxy samples: first what all institutions see alike, later what only some know
    levels       how fine answers are quantised: from coarse to fine, or finer when learning stalls
    frequency    in which rounds anything is sent: rarer as the student converges

DAdaQuant is Hönig, Zhao, Mullins (arXiv 2111.00465), its adaptation over time. The order by disagreement
and the frequency by convergence are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agenda:
    """What is asked for in a round.

    samples: [n] int64 ascending, positions in the proxy set.   levels: quanta per row of an answer.
    sends: whether anything is sent at all.
    """

    samples: np.ndarray
    levels: int
    sends: bool = True


def curriculum(
    disagreement: np.ndarray, number: int, progress: float, rng: np.random.Generator
) -> np.ndarray:
    """The proxy samples of a round, [number] ascending.

    disagreement: [N] nats, NaN where a sample was never asked about: until it is, it stands at a random
        place of the order.   progress: 0 asks about the common end of the order, 1 about the other.
    """
    known = np.flatnonzero(~np.isnan(disagreement))
    place = rng.random(len(disagreement))
    if len(known):
        ranks = np.empty(len(known))
        ranks[np.argsort(disagreement[known], kind="stable")] = np.arange(len(known))
        place[known] = (ranks + 0.5) / len(known)
    order = np.argsort(place, kind="stable")
    first = round(progress * (len(order) - number))
    return np.sort(order[first : first + number])


def geometric(first: int, last: int, round: int, rounds: int) -> int:
    """Levels of round 1 … rounds, from `first` to `last` by equal factors."""
    progress = (round - 1) / max(1, rounds - 1)
    return int(first * (last / first) ** progress + 0.5)


def dadaquant(losses: Sequence[float], first: int, cap: int, psi: float, phi: int) -> int:
    """Levels of the round after those whose losses are given.

    The loss is smoothed, Ĝ_t = ψ Ĝ_{t−1} + (1 − ψ) G_t; where it is not below what it was φ − 1 rounds
    before, levels are doubled, up to `cap`, and then kept for φ rounds at least.
    """
    levels, since, smooth = min(first, cap), 0, list[float]()
    for loss in losses:
        smooth.append(psi * smooth[-1] + (1 - psi) * loss if smooth else loss)
        since += 1
        if since >= phi and len(smooth) >= phi and smooth[-1] >= smooth[-phi]:
            levels, since = min(2 * levels, cap), 0
    return levels


def sends(losses: Sequence[float], tolerance: float, longest: int) -> bool:
    """Whether anything is sent in the round after those whose validation losses are given.

    The interval between such rounds begins at 1. It doubles, up to `longest`, after a round that has
    improved on the best loss by less than a part `tolerance`, and is 1 again after one that was worse than
    the best by more than that.
    """
    interval, since, best = 1, 0, float("inf")
    for loss in losses:
        since = 1 if since >= interval or since == 0 else since + 1
        if loss > best * (1 + tolerance):
            interval = 1
        elif loss > best * (1 - tolerance):
            interval = min(2 * interval, longest)
        best = min(best, loss)
    return since == 0 or since >= interval
