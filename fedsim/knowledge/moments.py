"""A last layer in closed form, from what everybody's private examples look like to the layers below it.

Those layers stay as they are, so that the layer which fits all examples best by least squares needs
nothing of them but two sums. Sums don't mind how examples are spread over participants:

    S = mean φφᵀ,  M = mean tφᵀ     φ, what the layer reads, and t, what it should give out, of length 1
    W = M (S + λ/d · 1)⁻¹           ridge regression; the mean eigenvalue of S is 1/d

Sources: Fed3R (Fanì et al., ICML 2024, arXiv 2402.01575), which does this with a frozen backbone, and AFL
(He et al., CVPR 2025, arXiv 2405.16240). Lengths of 1 are ours: no example counts for more than others, and
what one of them can change is known.

Legend: n examples, d numbers that the layer reads, K that it gives out.
"""

from __future__ import annotations

import numpy as np

from fedsim.aggregation.exact import FixedPointSum
from fedsim.errors import MessageError
from fedsim.types import Knowledge, Moments


def measure(read_ND: np.ndarray, wanted_NK: np.ndarray) -> Moments:
    """The moments of n ≥ 1 examples.   read: [n, d]; wanted: [n, K], a row of zeros wants nothing."""
    read, wanted = unit(read_ND), unit(wanted_NK)
    scatter = read.T @ read / len(read)
    return Moments(
        scatter[np.triu_indices(len(scatter))].astype(np.float32),
        (wanted.T @ read / len(read)).astype(np.float32),
        len(read),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; a row of zeros stays."""
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return scaled


def whole(moments: Moments) -> np.ndarray:
    """S [d, d] float64."""
    width = moments.products.shape[1]
    square = np.zeros((width, width))
    square[np.triu_indices(width)] = moments.scatter
    return square + np.triu(square, 1).T


def solve(moments: Moments, ridge: float) -> np.ndarray:
    """W [K, d] float64.   ridge: λ."""
    square, width = whole(moments), moments.products.shape[1]
    square[np.diag_indices(width)] += ridge / width
    weights: np.ndarray = np.linalg.solve(square, moments.products.astype(np.float64).T).T
    return weights


class MomentSum:
    """The moments of all examples, exact and in any order.

    width: d.   outputs: K.   sizes: the n that participants registered with; a message can't claim another.
    """

    def __init__(self, width: int, outputs: int, sizes: tuple[int, ...]) -> None:
        self._width, self._outputs, self._sizes = width, outputs, sizes
        self._triangle = width * (width + 1) // 2
        self.sum = FixedPointSum(self._triangle + outputs * width)

    def add(self, participant: int, knowledge: Knowledge) -> None:
        """Raises MessageError for what no examples could look like."""
        assert isinstance(knowledge, Moments)
        registered = self._sizes[participant]
        if knowledge.examples != registered:
            raise MessageError("unexpected", f"{knowledge.examples} examples, registered {registered}")
        least = float(np.linalg.eigvalsh(whole(knowledge))[0])
        if least < -1e-4:
            raise MessageError("unexpected", f"a scatter with the eigenvalue {least:g}")
        vector = np.concatenate([knowledge.scatter, knowledge.products.ravel()])
        self.sum.add(vector, registered / sum(self._sizes))

    def merge(self, other: MomentSum) -> None:
        self.sum.merge(other.sum)

    def result(self) -> Moments:
        """Raises ValueError where nobody has sent any."""
        mean = self.sum.mean()
        products = mean[self._triangle :].reshape(self._outputs, self._width)
        return Moments(mean[: self._triangle], products, sum(self._sizes))
