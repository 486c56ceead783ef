"""What the two sums of a readout would tell about single examples, were they seen.

S = Σ φφᵀ spans what its examples look like to the student's last layer, so the leverage φᵀ(S + ε)⁻¹φ, the
weight that an example has in a fit of its own, is smaller for those inside. Two targets:

    sums          of each participant, which its mask hides
    sum_of_all    what the coordinator learns

Legend: N examples, d numbers that the last layer reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.knowledge.moments import unit
from fedsim.learning import last_layer
from fedsim.learning.learner import Learner
from fedsim.types import Examples

_RIDGE = 1e-3
"""ε: an example's own square in S is 1, so this only keeps a sum of few examples invertible."""


def observe(
    student: Learner, shards: Sequence[Examples], asked: Sequence[Examples]
) -> dict[str, dict[str, np.ndarray]]:
    """Target → signal → [N] for all examples that are asked about, participant by participant.

    student: as it was sent down; its last layer doesn't matter.   shards: what each participant trained on.
    asked: of each participant the examples in question, or none.
    """
    squares = [square(_read(student, shard)) for shard in shards]
    whole: np.ndarray = np.sum(squares, axis=0)
    own, together = [], []
    for mine, examples in zip(squares, asked, strict=True):
        if len(examples):
            read = _read(student, examples)
            own.append(known(mine, read))
            together.append(known(whole, read))
    return {
        "sums": {"leverage": np.concatenate(own)},
        "sum_of_all": {"leverage": np.concatenate(together)},
    }


def square(read_Nd: np.ndarray) -> np.ndarray:
    """S = Σ φφᵀ, [d, d]."""
    return np.asarray(read_Nd.T @ read_Nd)


def known(square_dd: np.ndarray, read_Nd: np.ndarray) -> np.ndarray:
    """Minus the leverage of each example, [N], larger for what a sum S knows better; in parts of their mean,
    as all of it is larger in a sum of few."""
    inverse = np.linalg.inv(square_dd + _RIDGE * np.eye(len(square_dd)))
    leverage = np.einsum("nd,de,ne->n", read_Nd, inverse, read_Nd)
    return np.asarray(-leverage / leverage.mean())


def _read(student: Learner, examples: Examples) -> np.ndarray:
    """What the last layer reads of each example, of length 1, [N, d] float64."""
    return unit(last_layer.read(student, examples)[0])
