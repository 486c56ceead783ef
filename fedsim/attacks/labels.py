"""What an institution's answers tell the coordinator of how its labels are distributed.

The coordinator knows what every participant answers on the proxy set, and nothing of the shards. A model
believes more in labels that it saw often. The two simplest estimates of that, and what can be said without:

    answers   π̂_k = mean over x of p_k(x)
    ratio     π̂_k ∝ π̄ · exp(mean over x of log p_k(x) − log p̄(x)),   p̄ and π̄ those of all participants
    guess     π̂_k = π̄, the same for everybody: what is known without looking at k

The error is the total variation distance to the labels of k's training examples, 0 … 1. An estimate that
is no better than the guess has learnt nothing of the one institution.

Legend: n participants, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.types import Responses
from fedsim.wire.quantise import to_dense

ESTIMATES = ("answers", "ratio", "guess")


def estimates(answers: Sequence[Responses]) -> dict[str, np.ndarray]:
    """Name → [n, K] label distributions, from all participants' answers to the same questions."""
    stack_nNK = np.stack([to_dense(a, slice(0, a.rows)).astype(np.float64) for a in answers])
    floor = 0.5 / answers[0].levels  # of what rounds to no quantum
    logs_nNK = np.log(np.maximum(stack_nNK, floor))
    plain_nK = stack_nNK.mean(axis=1)
    overall_K = plain_nK.mean(axis=0)
    tilt_nK = (logs_nNK - np.log(np.maximum(stack_nNK.mean(axis=0), floor))).mean(axis=1)
    ratio_nK = np.maximum(overall_K, floor) * np.exp(tilt_nK)
    return {
        "answers": plain_nK,
        "ratio": ratio_nK / ratio_nK.sum(axis=1, keepdims=True),
        "guess": np.broadcast_to(overall_K, plain_nK.shape),
    }


def errors(found_nK: np.ndarray, truth_nK: np.ndarray) -> np.ndarray:
    """[n] total variation distances."""
    return np.asarray(0.5 * np.abs(found_nK - truth_nK).sum(axis=1))


def correlations(found_nK: np.ndarray, truth_nK: np.ndarray) -> np.ndarray:
    """[n] Pearson correlations over the classes; 0 where one side is even."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (found_nK, truth_nK))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 1e-12))
