"""What the coordinator makes of many teachers' scores of the same sequences: the mean of their probabilities.

p̄(y_t) = Σ_k w_k(x) p_k(y_t) ÷ Σ_k w_k(x) over the participants k, for every token of every sequence. Sums are
exact, so neither the order of arrival nor who pools them changes a bit; their size is that of the sequences.
"""

from __future__ import annotations

import numpy as np

from fedsim.aggregation.exact import CountSum, FixedPointSum, Pooled
from fedsim.errors import MessageError
from fedsim.types import Knowledge, Rollouts, Sequences

_REACH = 4.0
"""A participant's weight on a sample is within e^±4 of the others', whatever it claims."""
_UNIT = 2**16
"""A weight of 1 as an integer."""
_LEAST = 2.0**-40
"""Where nobody gave a token more than this, it is taken for this."""


class RolloutPool:
    """Σ w_k(x) p_k(y_t), and the new sequences that came along.

    asked: what everybody scores; None where nobody is asked.   drawn: tokens beside each that are scored,
        too.   levels: of the rows; 0: there are none.
    reference: [N] nats, what claims are measured against; None weighs all participants alike.
    room: [proxy samples], most tokens that may follow each sample's prompt.   end: closes a sequence.
    """

    def __init__(
        self,
        asked: Sequences | None,
        *,
        classes: int,
        drawn: int = 0,
        levels: int,
        confidence: float,
        reference: np.ndarray | None,
        room: np.ndarray,
        end: int,
    ) -> None:
        self.fresh: dict[int, Sequences] = {}
        self._asked, self._confidence, self._reference = asked, confidence, reference
        self._room, self._end = room, end
        if asked is not None:
            self._shape = len(asked.tokens), 1 + drawn
            self._mass = FixedPointSum(len(asked.tokens) * (1 + drawn))
            self._weight = FixedPointSum(len(asked))
        self._rows = CountSum(1, classes, levels) if levels else None

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Rollouts)
        if knowledge.sequences is not None:
            self._check(knowledge.sequences)
        if self._asked is not None:
            scores = knowledge.scores
            if scores is None or scores.shape != self._shape:
                shape = "no" if scores is None else list(scores.shape)
                raise MessageError("unexpected", f"{shape} scores, {list(self._shape)} were asked for")
            weights, owner = self._weights(knowledge.claims), self._asked.owner
            each = np.exp(scores.astype(np.float64)) * weights[owner][:, None]
            self._mass.add(each.ravel())
            self._weight.add(weights)
            if self._rows is not None:
                assert knowledge.rows is not None  # the decoder wants as many rows as scores
                self._rows.add(knowledge.rows, np.rint(_UNIT * weights[owner]).astype(np.int64))
        if knowledge.sequences is not None:
            self.fresh[participant] = knowledge.sequences

    def merge(self, other: RolloutPool) -> None:
        if self._asked is not None:
            self._mass.merge(other._mass)
            self._weight.merge(other._weight)
            if self._rows is not None:
                assert other._rows is not None
                self._rows.merge(other._rows)
        self.fresh.update(other.fresh)

    def log_probs(self) -> np.ndarray:
        """log p̄ of every token and of those drawn beside it, [M, 1 + J] float64."""
        assert self._asked is not None
        mean = self._mass.value().reshape(self._shape) / self._weight.value()[self._asked.owner][:, None]
        log_probs: np.ndarray = np.log(np.maximum(mean, _LEAST))
        return log_probs

    def rows(self) -> Pooled | None:
        """The pooled distributions at all tokens, one position each; None where scores are all there is."""
        return self._rows.result() if self._rows is not None else None

    def _weights(self, claims: np.ndarray | None) -> np.ndarray:
        assert self._asked is not None
        if self._reference is None:
            return np.ones(len(self._asked))
        if claims is None or len(claims) != len(self._asked):
            raise MessageError("unexpected", "not one claim for each sequence")
        gain = self._confidence * (self._reference - claims)
        weights: np.ndarray = np.exp(np.clip(gain.astype(np.float64), -_REACH, _REACH))
        return weights

    def _check(self, sequences: Sequences) -> None:
        if np.any(sequences.lengths > self._room[sequences.samples]):
            raise MessageError("unexpected", "a sequence that leaves its window")
        last = np.zeros(len(sequences.tokens), bool)
        last[sequences.offsets[1:] - 1] = True
        if np.any((sequences.tokens == self._end) & ~last):
            raise MessageError("unexpected", "a sequence that goes on after its end")
