"""Image–text retrieval: which text is an image's, and which image is a text's?

    image_to_text_<k>   share of images with a right text among the k most similar ones (recall@k)
    text_to_image_<k>   share of texts with a right image among the k most similar ones

Texts that are equal are one text. Right is an image's own caption and, where images are labelled, every
caption of its label (as in the contrastive loss, `fedsim.modalities.image_text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.types import Examples

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner

TOP = (1, 5, 10)
"""The k that are measured."""


def retrieved(learner: Learner, pairs: Examples, top: Sequence[int] = TOP) -> dict[str, float]:
    """Both recalls of a dual encoder on N pairs, all of which are candidates."""
    texts, own = np.unique(pairs.arrays["input_ids"], axis=0, return_inverse=True)
    right = own.reshape(-1)[:, None] == np.arange(len(texts))
    labels = pairs.arrays.get("labels")
    if labels is not None:
        alike = labels[:, None] == labels
        right = (alike.astype(np.int64) @ right) > 0
    similarity = learner.similarities(pairs, texts)
    return recalls(similarity, right, top)


def recalls(similarity: np.ndarray, right: np.ndarray, top: Sequence[int]) -> dict[str, float]:
    """similarity: [N, T] of images and texts.   right: [N, T] bool, at least one in each row and column.

    A wrong candidate that is as similar as the best right one counts as before it.
    """
    found: dict[str, float] = {}
    for name, scores, marks in (
        ("image_to_text", similarity, right),
        ("text_to_image", similarity.T, right.T),
    ):
        best = np.where(marks, scores, -np.inf).max(axis=1, keepdims=True)
        before = ((scores >= best) & ~marks).sum(axis=1)
        found |= {f"{name}_{k}": float((before < k).mean()) for k in top}
    return found
