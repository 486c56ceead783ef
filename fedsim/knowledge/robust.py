"""Features and prototypes that a minority of liars can't steer: what replaces sums where there is a defence.

    features     Of n participants the f are left out whose features are least like those of others: j and k
                 are alike by tr(P_j P_k) ÷ √(tr P_j² · tr P_k²), and a participant is as good as its
                 (n − f − 1)-th best likeness. Liars who agree with each other are too few for that; the
                 idea is Krum's (Blanchard et al., NeurIPS 2017). The same under every defence.
    prototypes   Each centroid is pooled by the defence, `aggregation.robust`, from those who sent it, all of
                 them alike: a count is a claim. Defences without a rule for a row weigh participants by
                 exp(−η · outlier) of this round's centroids, as `expguard` does. What fewer than 2f + 1 have
                 sent is left to the proxy set's own, since f liars may be among them. With `median` and
                 `trimmed_mean` no number of a centroid can leave the range of the honest ones.

Unlike the sums, these pools hold what everybody sent, so their memory grows with the participants.

Legend: n participants, r numbers of the space.
"""

from __future__ import annotations

import numpy as np

from fedsim.aggregation.robust import RULES, Guard, excess, geometric_median, kinship, suspects
from fedsim.knowledge.features import ConsensusSum, half_projection
from fedsim.knowledge.prototypes import checked
from fedsim.types import Features, Prototypes


class RobustConsensus:
    """As ConsensusSum, without those who are suspected most."""

    def __init__(self, layers: int, samples: int, suspected: float) -> None:
        self._layers, self._samples, self._suspected = layers, samples, suspected
        self._views: dict[int, Features] = {}

    def add(self, participant: int, features: Features) -> None:
        self._views[participant] = features

    def merge(self, other: RobustConsensus) -> None:
        self._views |= other._views

    def result(self, rank: int) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for layer in range(self._layers):
            trusted = self.trusted(layer)
            total = ConsensusSum(1, self._samples, max(1, len(trusted)))
            for who in trusted:
                of_all = self._views[who]
                codes, scales = of_all.codes[layer : layer + 1], of_all.scales[layer : layer + 1]
                total.add(who, Features(of_all.samples, codes, scales))
            found += total.result(rank)
        return found

    def trusted(self, layer: int) -> list[int]:
        """Who is left, ascending; of equals the lower participant."""
        who = sorted(self._views)
        f = suspects(self._suspected, len(who))
        if not f:
            return who
        halves = [half_projection(self._views[k].values(layer)) for k in who]
        inner = np.array([[((a @ b.T) ** 2).sum() for b in halves] for a in halves])
        alike = kinship(inner, f)
        return sorted(who[k] for k in np.argsort(-alike, kind="stable")[: len(who) - f])


class RobustPrototypes:
    """As PrototypeSum, by a guard's rule."""

    def __init__(self, width: int, sizes: tuple[int, ...], farthest: float, guard: Guard) -> None:
        self._width, self._sizes, self._farthest, self._guard = width, sizes, farthest, guard
        self._sent: dict[int, Prototypes] = {}

    def add(self, participant: int, prototypes: Prototypes) -> None:
        self._sent[participant] = checked(prototypes, self._sizes[participant], self._farthest)

    def merge(self, other: RobustPrototypes) -> None:
        self._sent |= other._sent

    def result(self) -> Prototypes:
        """Those that enough participants sent, with all their examples counted."""
        who = sorted(self._sent)
        f = suspects(self._guard.suspected, len(who))
        rows: dict[tuple[int, int], list[tuple[int, np.ndarray, int]]] = {}
        for k in who:
            p = self._sent[k]
            values = np.column_stack([p.centroids, p.confidence]).astype(np.float64)
            for group, slot, value, count in zip(p.groups, p.slots, values, p.counts, strict=True):
                rows.setdefault((int(group), int(slot)), []).append((k, value, int(count)))
        names = sorted(name for name, sent in rows.items() if len(sent) > 2 * f)
        weights = self._weights(rows, who) if names and self._guard.defence not in RULES else None
        pooled = np.zeros((len(names), self._width + 1))
        for place, name in enumerate(names):
            stack = np.stack([value for _, value, _ in rows[name]])[:, None]
            if weights is None:
                pooled[place] = RULES[self._guard.defence](stack, f)[0]
            else:
                mine = np.array([weights[k] for k, _, _ in rows[name]])
                pooled[place] = mine @ stack[:, 0] / mine.sum()
        return Prototypes(
            np.array([group for group, _ in names], np.int64),
            np.array([slot for _, slot in names], np.int64),
            pooled[:, :-1].astype(np.float32),
            np.array([sum(count for _, _, count in rows[name]) for name in names], np.int64),
            pooled[:, -1].clip(0, 1).astype(np.float32),
        )

    def _weights(
        self, rows: dict[tuple[int, int], list[tuple[int, np.ndarray, int]]], who: list[int]
    ) -> dict[int, float]:
        """exp(−η · outlier) of each participant, from its mean distance to the geometric medians."""
        apart: dict[int, list[float]] = {k: [] for k in who}
        for sent in rows.values():
            stack = np.stack([value[:-1] for _, value, _ in sent])[:, None]
            away = np.sqrt(((stack - geometric_median(stack)) ** 2).sum(-1))[:, 0]
            for (k, _, _), distance in zip(sent, away, strict=True):
                apart[k].append(float(distance))
        usual = np.array([np.mean(apart[k]) if apart[k] else 0.0 for k in who])
        return dict(zip(who, np.exp(-self._guard.eta * excess(usual)), strict=True))
