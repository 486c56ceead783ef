"""LiRA: is what a model says of an example likelier with the example in its training set, or without?

Carlini, Chien, Nasr, Song, Terzis, Tramèr; IEEE S&P 2022; arXiv 2112.03570. Shadow models are trained on
random halves of the examples; of each example the scores φ = log(p ÷ (1 − p)) of those trained with it
and of those trained without it are taken for normal. The variance is fixed: one for all examples, of
their scores around their own means, as few shadows can't tell one of each.

    online    log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²)
    offline   (φ − μ_out) ÷ σ_out                               needs no shadow that saw the example

Legend: S shadows, N examples.
"""

from __future__ import annotations

import numpy as np

_LEAST = 1e-6
"""Deviation of scores that don't vary."""


def online(target_N: np.ndarray, shadows_SN: np.ndarray, inside_SN: np.ndarray) -> np.ndarray:
    """Scores [N], higher for members.   inside_SN: bool, whether a shadow was trained with an example.

    Raises ValueError where an example is in all shadows or in none.
    """
    mean_in, sigma_in = _normal(shadows_SN, inside_SN)
    mean_out, sigma_out = _normal(shadows_SN, ~inside_SN)
    within = -0.5 * ((target_N - mean_in) / sigma_in) ** 2 - np.log(sigma_in)
    without = -0.5 * ((target_N - mean_out) / sigma_out) ** 2 - np.log(sigma_out)
    return np.asarray(within - without)


def offline(target_N: np.ndarray, shadows_SN: np.ndarray, inside_SN: np.ndarray) -> np.ndarray:
    """Scores [N], higher for members; of the shadows only those without an example are looked at."""
    mean_out, sigma_out = _normal(shadows_SN, ~inside_SN)
    return np.asarray((target_N - mean_out) / sigma_out)


def _normal(scores_SN: np.ndarray, chosen_SN: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of each example's chosen scores [N], and one deviation around the means."""
    number_N = chosen_SN.sum(0)
    if not number_N.all():
        raise ValueError("every example needs shadows that saw it, and some that did not")
    mean_N = np.where(chosen_SN, scores_SN, 0.0).sum(0) / number_N
    squares = np.where(chosen_SN, scores_SN - mean_N, 0.0) ** 2
    sigma = (squares.sum() / max(1, (number_N - 1).sum())) ** 0.5
    return mean_N, max(float(sigma), _LEAST)
