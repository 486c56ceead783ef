"""Features of several models, brought into one space.

The hidden states of two models can't be compared number by number: each has a basis of its own, be the
widths equal or not. What can be compared is which directions over the *samples* a model spans. So every
participant sends H_k [n, r], the principal components of its hidden states on n proxy samples, and the
coordinator looks for the embedding G that all of them can predict best by a linear map of their own:

    max_G  Σ_k w_k ‖P_k G‖²   with  GᵀG = I,     P_k = H_k (H_kᵀ H_k + λI)⁻¹ H_kᵀ

G is made of the top eigenvectors of Σ w_k P_k: MAXVAR generalised canonical correlation analysis
(Kettenring, Biometrika 1971; with ridge and for views of any width as in Rastogi, Van Durme, Arora,
NAACL 2015). An eigenvalue ÷ Σ w_k, in 0 … 1, is the share of the participants that know its direction;
its root scales the direction, so that what few share counts for little. As λ → 0, P_k and with it G do
not change when a participant's features are multiplied by any invertible matrix.

Legend: n samples, d width of a hidden state, r columns, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.aggregation.exact import FixedPointSum
from fedsim.types import Features
from fedsim.wire.inner import STEPS

RIDGE = 0.01
"""λ ÷ the mean of the eigenvalues of HᵀH: directions a hundred times weaker than the mean count half."""


def reduced(samples: np.ndarray, hidden: Sequence[np.ndarray], rank: int, steps: int = STEPS) -> Features:
    """The first `rank` principal components of each layer's hidden states [n, d], each in steps of
    −`steps` … `steps` (127 at most).

    Fewer columns where a layer has a smaller width, or the samples are that few.
    """
    columns = min(rank, *(min(h.shape) for h in hidden))
    codes, scales = [], []
    for states in hidden:
        centred = _centred(states)
        left, length, _ = np.linalg.svd(centred, full_matrices=False)
        components = left[:, :columns] * length[:columns]
        scale = (np.abs(components).max(axis=0) / steps).astype(np.float32)
        codes.append(np.rint(components / np.where(scale > 0, scale, 1)).clip(-steps, steps))
        scales.append(scale)
    return Features(samples, np.stack(codes).astype(np.int8), np.stack(scales))


def as_features(samples: np.ndarray, embeddings: Sequence[np.ndarray]) -> Features:
    """Embeddings [n, r] as they are, in steps of int8: for who is to read them number by number."""
    scales = [(np.abs(e).max(axis=0) / STEPS).astype(np.float32) for e in embeddings]
    codes = [np.rint(e / np.where(s > 0, s, 1)) for e, s in zip(embeddings, scales, strict=True)]
    return Features(samples, np.stack(codes).clip(-STEPS, STEPS).astype(np.int8), np.stack(scales))


class ConsensusSum:
    """Σ w_k P_k for each layer: exact in any order, L · n² numbers however many participants there are.

    participants: how many there may be; each weighs the same, whatever the size of its features.
    """

    def __init__(self, layers: int, samples: int, participants: int) -> None:
        self._samples, self._weight = samples, 1 / participants
        self._sums = [FixedPointSum(samples**2) for _ in range(layers)]

    def add(self, participant: int, features: Features) -> None:
        """features: of exactly these layers and samples."""
        for layer, total in enumerate(self._sums):
            total.add(projection(features.values(layer)).ravel(), self._weight, bound=1.0)

    def merge(self, other: ConsensusSum) -> None:
        for mine, theirs in zip(self._sums, other._sums, strict=True):
            mine.merge(theirs)

    def result(self, rank: int) -> list[np.ndarray]:
        """The embedding [n, rank] of each layer; empty if nobody sent features."""
        if not self._sums[0].weight:
            return []
        return [embedding(s.mean().reshape(self._samples, -1), rank) for s in self._sums]


def projection(features: np.ndarray) -> np.ndarray:
    """P = H (HᵀH + λI)⁻¹ Hᵀ of the centred features [n, r]: symmetric, eigenvalues in 0 … 1."""
    half = half_projection(features)
    return np.asarray(half.T @ half)


def half_projection(features: np.ndarray) -> np.ndarray:
    """A [r, n] with P = AᵀA."""
    centred = _centred(features)
    gram = centred.T @ centred
    mean = float(np.trace(gram)) / len(gram)
    if not mean:
        return np.zeros((len(gram), len(centred)))
    root = np.linalg.cholesky(gram / mean + RIDGE * np.eye(len(gram)))
    return np.asarray(np.linalg.solve(root, centred.T / np.sqrt(mean)))


def embedding(mean: np.ndarray, rank: int) -> np.ndarray:
    """G [n, rank] of the mean projection [n, n]: column j has variance agreement_j in 0 … 1.

    The sign of a column is such that its largest entry is positive.
    """
    agreement, vectors = np.linalg.eigh(mean)
    top = slice(len(mean) - 1, None if rank >= len(mean) else len(mean) - 1 - rank, -1)
    agreement, vectors = agreement[top].clip(0, 1), vectors[:, top]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs * np.sqrt(len(mean) * agreement))


def aligned(embedding: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """The embedding turned to where an earlier one of the same samples was (orthogonal Procrustes).

    Eigenvectors of near eigenvalues turn freely from round to round; a turned G spans the same and
    lets what was learnt about the earlier one, and its prototypes, stay true.
    """
    left, _, right = np.linalg.svd(embedding.T @ earlier)
    return np.asarray(embedding @ (left @ right))


class LinearMap:
    """Ridge regression from hidden states [n, d] to targets [n, r], its intercept not penalised."""

    def __init__(self, hidden: np.ndarray, target: np.ndarray) -> None:
        self._mean, self._offset = hidden.mean(axis=0, dtype=np.float64), target.mean(axis=0)
        centred = hidden - self._mean
        gram = centred.T @ centred
        penalty = RIDGE * np.trace(gram) / len(gram) + np.finfo(np.float64).tiny
        self._matrix = np.linalg.solve(
            gram + penalty * np.eye(len(gram)), centred.T @ (target - self._offset)
        )

    def __call__(self, hidden: np.ndarray) -> np.ndarray:
        """[n, d] → [n, r]."""
        return np.asarray((hidden - self._mean) @ self._matrix + self._offset)


def _centred(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean(axis=0, dtype=np.float64))
