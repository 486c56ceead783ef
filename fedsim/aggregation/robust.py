"""Pooling that a minority of liars can't steer: what takes the place of the mean of answers.

    trimmed_mean       without the f highest and the f lowest probabilities of each class (Yin et al.,
                       arXiv 1803.01498)
    median             of each class's probabilities
    geometric_median   the point with the least sum of distances to all answers (RFA, Pillutla et al.,
                       arXiv 1912.13445), by smoothed Weiszfeld steps
    cronus             the mean, after f times the answer was left out that lies farthest along the direction
                       in which answers differ most: the spectral filter that Cronus pools with (arXiv
                       1912.11279)
    expguard           the mean with weights w_k · exp(−η · outlier_k), kept over rounds (ExpGuard, Roux et
                       al., arXiv 2402.12265). outlier_k is how much farther than the median participant k
                       lies from the geometric median, as a share of that distance
    agreement          the same weights with another outlier: how much less than the median participant k is
                       like others, as a share of that. j and k are alike by the cosine of p_j − 1/K and
                       p_k − 1/K over all rows, and k is as like others as its (n − f − 1)-th best likeness:
                       liars who agree are too few for that (the idea of Krum, Blanchard et al., NeurIPS
                       2017). Answers that are flat or upside down lie near the middle of honest ones that
                       differ, where distances don't find them

f is the number of suspects, the largest minority that is to be withstood. All but the last two judge each
row by itself. What is no distribution is refused where messages are decoded, before it comes here.

These rules need all answers of a row together. Unlike the mean's pool, this one holds what everybody said
(sparse, as it was sent), so its memory grows with the number of participants.

Legend: n participants, R rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.aggregation.disagreement import Disagreement
from fedsim.aggregation.exact import Pooled
from fedsim.types import Knowledge, Responses
from fedsim.wire.quantise import to_dense

Defence = Literal["none", "trimmed_mean", "median", "geometric_median", "cronus", "expguard", "agreement"]
TRUSTING = ("expguard", "agreement")
"""Those that remember from round to round whom to trust."""


@dataclass(frozen=True)
class Guard:
    """A defence.   suspected: the share of participants that may lie.   eta: η of the last two."""

    defence: Defence
    suspected: float
    eta: float


_VALUES = 2**21
"""Probabilities held densely at once."""
_STEPS = 24
_SMOOTH = 1e-3
"""Weiszfeld's steps, and the distance below which an answer is no nearer."""


def suspects(share: float, participants: int) -> int:
    """f, how many of the participants that answered may lie: never half of them."""
    return max(0, min(math.ceil(share * participants - 1e-9), (participants - 1) // 2))


def trimmed_mean(stack_nRK: np.ndarray, f: int) -> np.ndarray:
    """[R, K]; rows need not sum to 1."""
    n = len(stack_nRK)
    return np.asarray(np.sort(stack_nRK, axis=0)[f : n - f].mean(axis=0))


def median(stack_nRK: np.ndarray, f: int) -> np.ndarray:
    """[R, K]; rows need not sum to 1."""
    return np.asarray(np.median(stack_nRK, axis=0))


def geometric_median(stack_nRK: np.ndarray, f: int = 0) -> np.ndarray:
    """[R, K], of Euclidean distances."""
    centre = stack_nRK.mean(axis=0)
    for _ in range(_STEPS):
        distance_nR = np.sqrt(((stack_nRK - centre) ** 2).sum(-1))
        weight_nR = 1.0 / np.maximum(distance_nR, _SMOOTH)
        centre = np.einsum("nr,nrk->rk", weight_nR / weight_nR.sum(0), stack_nRK)
    return np.asarray(centre)


def cronus(stack_nRK: np.ndarray, f: int) -> np.ndarray:
    """[R, K]."""
    kept_nR = np.ones(stack_nRK.shape[:2])
    rows = np.arange(stack_nRK.shape[1])
    for _ in range(f):
        mean = np.einsum("nr,nrk->rk", kept_nR, stack_nRK) / kept_nR.sum(0)[:, None]
        centred = (stack_nRK - mean) * kept_nR[..., None]
        # The leading eigenvector of the n × n Gram matrix holds the answers' places along the leading
        # direction of their covariance, which is K × K.
        places_Rn = np.linalg.eigh(np.einsum("irk,jrk->rij", centred, centred))[1][:, :, -1]
        kept_nR[np.abs(places_Rn).argmax(1), rows] = 0
    return np.asarray(np.einsum("nr,nrk->rk", kept_nR, stack_nRK) / kept_nR.sum(0)[:, None])


RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "trimmed_mean": trimmed_mean,
    "median": median,
    "geometric_median": geometric_median,
    "cronus": cronus,
}


class RobustPool:
    """Everybody's answers to a round's questions, until all are in.

    trust: [N] log weights of all participants of the run from earlier rounds; None where no rule keeps any.
    """

    def __init__(
        self,
        samples: np.ndarray,
        levels: int,
        guard: Guard,
        *,
        trust: np.ndarray | None = None,
        disagreement: Disagreement | None = None,
        asked: np.ndarray | None = None,
    ) -> None:
        self.samples, self.levels, self.disagreement = samples, levels, disagreement
        self.trust = trust
        self._guard, self._asked = guard, asked
        self._answers: dict[int, Responses] = {}

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Responses)
        self._answers[participant] = knowledge
        if self.disagreement is not None:
            self.disagreement.add(knowledge)

    def merge(self, other: RobustPool) -> None:
        self._answers |= other._answers
        if self.disagreement is not None and other.disagreement is not None:
            self.disagreement.merge(other.disagreement)

    def result(self) -> Pooled:
        """The pooled answers; `trust` afterwards is that of the next round."""
        who = sorted(self._answers)  # in whatever order they came
        answers = [self._answers[k] for k in who]
        if self._guard.defence in TRUSTING:
            assert self.trust is not None
            f = suspects(self._guard.suspected, len(who))
            if self._guard.defence == "expguard":
                strange = outliers(answers, self._asked)
            else:
                strange = strangers(answers, f, self._asked)
            self.trust = self.trust.copy()
            self.trust[who] -= self._guard.eta * strange
            weights = np.exp(self.trust[who] - self.trust[who].max())
            return _pooled(answers, lambda stack: np.einsum("n,nrk->rk", weights / weights.sum(), stack))
        rule, f = RULES[self._guard.defence], suspects(self._guard.suspected, len(who))
        return _pooled(answers, lambda stack: rule(stack, f))


def outliers(answers: Sequence[Responses], asked: np.ndarray | None = None) -> np.ndarray:
    """[n] how much farther from the geometric median each lies than the median participant does, in
    shares of that distance; at least 0.   asked: [R] bool, the rows that tell something; None: all."""
    distances = np.zeros(len(answers))
    for stack in _telling(answers, asked):
        centre = geometric_median(stack)
        distances += np.sqrt(((stack - centre) ** 2).sum(-1)).sum(-1)
    return excess(distances)


def strangers(answers: Sequence[Responses], f: int, asked: np.ndarray | None = None) -> np.ndarray:
    """[n] how much less than the median participant each agrees with others, in shares of that; ≥ 0.

    asked: [R] bool, the rows that tell something: on padding everybody says the same. None: all."""
    inner = np.zeros((len(answers), len(answers)))
    for stack in _telling(answers, asked):
        inner += np.einsum("irk,jrk->ij", stack, stack) - stack.shape[1] / answers[0].classes
    alike = kinship(inner, f)
    usual = float(np.median(alike))
    return np.maximum(0.0, 1.0 - alike / usual) if usual > 0 else np.zeros(len(answers))


def kinship(inner_nn: np.ndarray, f: int) -> np.ndarray:
    """[n] the (n − f − 1)-th best cosine of each with the others.   inner_nn: products of each pair."""
    n = len(inner_nn)
    size = np.sqrt(np.maximum(np.diag(inner_nn), 0)) + np.finfo(np.float32).tiny
    alike = inner_nn / np.outer(size, size)
    np.fill_diagonal(alike, -np.inf)
    return np.asarray(np.sort(alike, axis=1)[:, ::-1][:, max(0, n - f - 2)])


def excess(distances: np.ndarray) -> np.ndarray:
    """[n] by how much each distance is above the median one, in shares of that; at least 0."""
    usual = float(np.median(distances))
    return np.maximum(0.0, distances / usual - 1.0) if usual > 0 else np.zeros(len(distances))


def _telling(answers: Sequence[Responses], asked: np.ndarray | None) -> Iterator[np.ndarray]:
    """The stacks, of the rows that are asked about."""
    for start, _, stack in _stacks(answers):
        yield stack if asked is None else stack[:, asked[start : start + stack.shape[1]]]


def _stacks(answers: Sequence[Responses]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Rows at a time: the first one's number, the classes [C] that somebody names there, and what
    everybody says of these classes [n, rows, C] float64."""
    first = answers[0]
    size = max(1, _VALUES // (len(answers) * first.classes))
    for start in range(0, first.rows, size):
        dense = np.stack([to_dense(a, slice(start, start + size)) for a in answers])
        named = np.flatnonzero(dense.any(axis=(0, 1)))
        yield start, named, dense[..., named].astype(np.float64)


def _pooled(answers: Sequence[Responses], rule: Callable[[np.ndarray], np.ndarray]) -> Pooled:
    """A rule's outcome as distributions: what it leaves negative is 0, and rows are divided by their sum.
    A row of which it leaves nothing gets the mean."""
    lengths, ids, probs = [], [], []
    for _, named, stack in _stacks(answers):
        rows = np.maximum(rule(stack), 0.0)
        lost = rows.sum(axis=1) <= 0
        rows[lost] = stack[:, lost].mean(axis=0)
        rows = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
        row, place = np.nonzero(rows)
        lengths.append(np.bincount(row, minlength=len(rows)))
        ids.append(named[place].astype(np.int32))
        probs.append(rows[row, place])
    first = answers[0]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Pooled(
        first.samples, first.positions, first.classes, offsets, np.concatenate(ids), np.concatenate(probs)
    )
