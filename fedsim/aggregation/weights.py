"""How much each participant's answers weigh, from what it says of itself and what the student lacks.

    w_k(x) = exp( clip( confidence · (reference(x) − claim_k(x)) ÷ scale
                        + personal · Σ_g ν_g (ℓ_student,g − ℓ_k,g),  ± reach ) )

ν: the student's losses per group of the public validation split, smoothed over rounds, as shares: the
relevance of a participant is how much better than the student it knows what the student lacks. Its part
is the same for all samples and changes from round to round, as the student does.

Claims and skills are self-reported, so the exponent is clipped: with reach ½ log(s(N − 1)/(1 − s)) nobody
has more than a share s of a sample that N participants answer, whatever it says. N are those who are asked:
where some of them don't deliver, a share is that of fewer and may be larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedsim.types import Responses

_UNIT = 2**16
REACH = 8.0
"""The exponent's bound where no share is wanted: a weight can shrink and grow 3,000-fold."""


@dataclass(frozen=True)
class Weighing:
    """What all of a round's answers are weighed by; the default weighs all alike.

    reference: [n] the student's own claims on the round's samples; None: claims don't matter.
    scale: what a claim's differences are measured in.
    need: [G] the student's losses per group, nats; None: skills don't matter.
    """

    confidence: float = 0.0
    reference: np.ndarray | None = None
    scale: float = 1.0
    personal: float = 0.0
    need: np.ndarray | None = None
    reach: float = REACH

    def gains(self, responses: Responses) -> np.ndarray:
        """log w, [n] float64, within ± reach. Who makes no claims has those of the student."""
        gains = np.zeros(len(responses.samples))
        if self.reference is not None and responses.claims is not None:
            gains += self.confidence * (self.reference - responses.claims) / self.scale
        if self.need is not None and responses.skills is not None:
            gains += self.personal * relevance(self.need, responses.skills)
        return np.clip(gains, -self.reach, self.reach)

    def units(self, responses: Responses) -> np.ndarray:
        """w as integers [n], of which 2^16 are a weight of 1: their sums are exact, and a weight can shrink
        and grow by e^±8."""
        units: np.ndarray = np.rint(_UNIT * np.exp(self.gains(responses))).astype(np.int64)
        return units


def relevance(need: np.ndarray, skills: np.ndarray) -> float:
    """Nats by which somebody with losses `skills` [G] is better than the student, with losses `need`
    [G], in what the student is bad at."""
    return float((need / need.sum()) @ (need - skills)) if need.any() else 0.0


def reach(share: float, participants: int) -> float:
    """The exponent's bound with which no weight is above `share` of the sum of `participants`.

    Raises ValueError where equal weights would be.
    """
    if participants == 1:
        return REACH
    if share * participants < 1:
        raise ValueError(f"a share of {share} is below the mean of {participants}")
    return min(REACH, 0.5 * math.log(share * (participants - 1) / (1 - share))) if share < 1 else REACH
