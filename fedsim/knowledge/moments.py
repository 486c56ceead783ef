"""A last layer in closed form, from what everybody's private examples look like to the layers below it.

Those layers stay as they are, so that the layer which fits all examples best by least squares needs
nothing of them but two sums. Sums don't mind how examples are spread over participants:

    S = mean φφᵀ,  M = mean tφᵀ     φ, what the layer reads, and t, what it should give out, of length 1
    W = M (S + λ/d · 1)⁻¹           ridge regression; the mean eigenvalue of S is 1/d

Sources: Fed3R (Fanì et al., ICML 2024, arXiv 2402.01575), which does this with a frozen backbone, and AFL
(He et al., CVPR 2025, arXiv 2405.16240). Lengths of 1 are ours: no example counts for more than others.

One institution's S tells who is in it (`experiments/GUIDELINES.md` says how well), that of all does not. So
everybody hides its part behind masks that cancel in the sum, `aggregation.masks`.

Legend: n examples, d numbers that the layer reads, K that it gives out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LOOSE = 1e-3
"""What rounding may add to a length of 1, and more."""


@dataclass(frozen=True)
class Moments:
    """square: S [d, d] float64.   products: M [K, d] float64."""

    square: np.ndarray
    products: np.ndarray

    def vector(self) -> np.ndarray:
        """The upper triangle of S, row after row, then M; no number is larger than 1."""
        return np.concatenate([self.square[np.triu_indices(len(self.square))], self.products.ravel()])

    @property
    def plausible(self) -> bool:
        """Whether there can be examples of length 1 that have these."""
        return bool(
            0 <= np.trace(self.square) <= 1 + _LOOSE  # less where a layer reads nothing but zeros
            and np.linalg.norm(self.products) <= 1 + _LOOSE
            and np.linalg.eigvalsh(self.square)[0] >= -_LOOSE
        )


def size(width: int, outputs: int) -> int:
    """Numbers in `Moments.vector`."""
    return width * (width + 1) // 2 + outputs * width


def of_vector(vector: np.ndarray, width: int) -> Moments:
    """What `Moments.vector` made."""
    square, triangle = np.zeros((width, width)), width * (width + 1) // 2
    square[np.triu_indices(width)] = vector[:triangle]
    return Moments(square + np.triu(square, 1).T, vector[triangle:].reshape(-1, width))


def measure(read_ND: np.ndarray, wanted_NK: np.ndarray) -> Moments:
    """The moments of n ≥ 1 examples.   read: [n, d]; wanted: [n, K], a row of zeros wants nothing."""
    read, wanted = unit(read_ND), unit(wanted_NK)
    return Moments(read.T @ read / len(read), wanted.T @ read / len(read))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; a row of zeros stays."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return scaled


def solve(moments: Moments, ridge: float) -> np.ndarray:
    """W [K, d] float64, of norm 2d/λ at most for plausible moments, whoever made them.   ridge: λ."""
    width, square = len(moments.square), moments.square
    values, axes = np.linalg.eigh(square)
    if values[0] < -ridge / width / 2:  # of no examples: what is below zero could cancel λ
        square = (axes * values.clip(0)) @ axes.T
    square = square + ridge / width * np.eye(width)
    weights: np.ndarray = np.linalg.solve(square, moments.products.T).T
    return weights
