"""The student's inner terms: what its features and its distance to prototypes cost.

feature    mean over the mapped layers of ‖W_l f_l(x) − G_l(x)‖² ÷ r
prototype  confidence · ‖W f(x) − c‖² ÷ r,  f the last mapped layer, c the nearest prototype of x's group
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.learning import losses
from fedsim.learning.training import Stream
from fedsim.models.heads import Heads


def guided_terms(heads: Heads, stream: Stream, batch: np.ndarray) -> dict[str, Tensor]:
    """The weighted terms of the examples at `batch`, after the forward pass with them."""
    guide, want = stream.guide, stream.objective
    terms: dict[str, Tensor] = {}
    if guide is None:
        return terms

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(heads.embeddings[0].device)

    if want.feature and guide.known.any() and any(e is not None for e in guide.embeddings):
        known_B, share = tensor(guide.known[batch]), float(guide.known.mean())
        layers = [
            losses.feature_mse(mapped.float(), tensor(embedding[batch]), known_B, share)
            for mapped, embedding in zip(heads.embeddings, guide.embeddings, strict=True)
            if embedding is not None
        ]
        terms["feature"] = losses.weighted(stream.weight * want.feature, torch.stack(layers).mean())
    if pulls(stream):
        terms["prototype"] = prototype_term(heads.embeddings[-1], stream, batch)
    return terms


def pulls(stream: Stream) -> bool:
    """Whether there are prototypes that a stream's examples are to be near."""
    guide = stream.guide
    found = guide is not None and guide.prototypes is not None and guide.groups is not None
    return found and stream.objective.prototype > 0


def prototype_term(embeddings_Br: Tensor, stream: Stream, batch: np.ndarray) -> Tensor:
    """The weighted distance of the examples at `batch` from their prototypes."""
    guide = stream.guide
    assert guide is not None and guide.groups is not None and guide.prototypes is not None

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(embeddings_Br.device)

    distance = losses.prototype_distance(
        embeddings_Br.float(),
        tensor(guide.groups[batch]),
        tensor(guide.prototypes.centroids),
        tensor(guide.prototypes.groups),
        tensor(guide.prototypes.confidence),
    )
    return losses.weighted(stream.weight * stream.objective.prototype, distance)
