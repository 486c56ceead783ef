"""What each token of sampled sequences earns: numbers, computed before a student learns from them.

Arrays are ragged: M generated tokens of N sequences, one sequence after the other, `offsets` [N + 1]
saying where each begins. Prompts and padding are not in them, so nothing has to be masked.
"""

from __future__ import annotations

import numpy as np

MAX_REWARD = 10.0
"""Nats that one token can earn or lose, as in MiniLLM's code: one absurd token must not decide a round."""
MAX_WEIGHT = 4.0
"""Largest importance weight of a token."""


def rewards(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """r_t = log p(y_t) − log q(y_t), [M] float64, within ±MAX_REWARD."""
    gain: np.ndarray = np.clip(teacher.astype(np.float64) - student, -MAX_REWARD, MAX_REWARD)
    return gain


def to_go(rewards: np.ndarray, offsets: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """R_t = Σ_{t′ ≥ t} γ^{t′−t} r_{t′} within each sequence, [M] float64."""
    table, place = _padded(rewards, offsets)
    for t in range(table.shape[1] - 2, -1, -1):
        table[:, t] += gamma * table[:, t + 1]
    values: np.ndarray = table[place]
    return values


def long_term(
    rewards: np.ndarray, offsets: np.ndarray, gamma: float = 1.0, *, per_token: bool = False
) -> np.ndarray:
    """R_{t+1}, what comes after each token, [M] float64; 0 at the last token of a sequence.

    per_token: divided by the number of tokens that are still to come, so that a long sequence weighs no more
    than a short one (MiniLLM, section 2.2).
    """
    # R_t = r_t + γ R_{t+1}
    after: np.ndarray = (to_go(rewards, offsets, gamma) - rewards) / gamma
    if per_token:
        after /= np.maximum(remaining(offsets), 1)
    return after


def remaining(offsets: np.ndarray) -> np.ndarray:
    """Tokens of its sequence that come after each token, [M] int64."""
    ends = np.repeat(offsets[1:], np.diff(offsets))
    left: np.ndarray = ends - np.arange(offsets[-1]) - 1
    return left


def among(rewards: np.ndarray) -> np.ndarray:
    """What each of a step's draws earns beside the others, [M, J]: its reward less the mean of theirs, which
    is independent of it, so that the expected gradient stays what it is."""
    draws = rewards.shape[1]
    if draws == 1:
        return rewards
    apart: np.ndarray = (rewards - rewards.mean(1, keepdims=True)) * (draws / (draws - 1))
    return apart


def mixed_weights(student: np.ndarray, teacher: np.ndarray, mixing: float) -> np.ndarray:
    """w_t = q(y_t) ÷ (α p(y_t) + (1 − α) q(y_t)), [M] float64: sequences came from both.

    student, teacher: log q and log p.   mixing: α, the teacher's part. At q = p the weight is 1.
    """
    ratio = np.exp(np.clip(teacher.astype(np.float64) - student, -50, 50))
    weights: np.ndarray = np.minimum(1.0 / (mixing * ratio + (1 - mixing)), MAX_WEIGHT)
    return weights


def whitened(values: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 over all tokens."""
    apart: np.ndarray = (values - values.mean()) / (values.std() + 1e-8)
    return apart


def _padded(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ragged values as a table [N, longest] of zeros elsewhere, and where each of them is in it."""
    lengths = np.diff(offsets)
    place = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    table = np.zeros(place.shape)
    table[place] = values
    return table, place
