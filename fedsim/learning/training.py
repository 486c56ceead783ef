"""What a stretch of training is, as plain data: it can be sent to an actor or to another rank.

No torch here, so that methods, which say what is trained on what, can be read by the driver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedsim.aggregation.exact import Pooled
from fedsim.config import Training
from fedsim.types import Examples, Prototypes

FLOOR = 0.1
"""Cosine decay ends at this part of the learning rate."""


@dataclass(frozen=True)
class Objective:
    """L = response · T² D(teacher, student) + task · cross-entropy, per prediction,
    + feature · MSE + prototype · distance, per example: see `guidance`.

    divergence, skew: what D is, see `losses.divergence`.
    A term with weight 0 is not computed; nor is one for which the examples lack the answers.
    """

    response: float = 0.0
    task: float = 1.0
    temperature: float = 1.0
    divergence: str = "forward"
    skew: float = 0.1
    feature: float = 0.0
    prototype: float = 0.0


@dataclass(frozen=True)
class HeadSpec:
    """What a method wants a student to have while it learns; see `models.heads`.

    depths: of the layers whose features are mapped, each to `rank` numbers.
    domains: size of the codes that its adaptation layer reads; 0: it has none.
    """

    depths: tuple[float, ...] = ()
    rank: int = 0
    domains: int = 0


@dataclass(frozen=True)
class Guide:
    """What is known of N examples besides their answers, in the spaces of the student's heads.

    known: [N] bool, whether the embeddings tell of an example.
    embeddings: for each mapped layer [N, r] float32, anything where not known; None for a layer of which
        nothing is known yet.
    groups: [N] int64, whose prototypes an example should be near, in the last mapped layer; −1: nobody's.
    prototypes: with r numbers each; None where there are none yet.
    domains: [N, D] float32; None without an adaptation layer.
    """

    known: np.ndarray
    embeddings: tuple[np.ndarray | None, ...] = ()
    groups: np.ndarray | None = None
    prototypes: Prototypes | None = None
    domains: np.ndarray | None = None


@dataclass(frozen=True)
class Lesson:
    """What is known of M generated tokens of N sequences before a student learns from them by policy
    gradient; sequence i has the tokens offsets[i] … offsets[i + 1] − 1. See `policy_gradient`.

    old: [M] float32, log q(y_t) of the student as it was.   advantages: [M] float32, what each token earns.
    weights: [M] float32, importance weights.   clip: ε of PPO.
    teacher: its distributions at these tokens, M rows of one position, for the exact single step; or None.
    drawn, drawn_old, drawn_advantages: [M, J], other tokens that the student drew at the same places, with
        which the single step is sampled; or None.
    """

    offsets: np.ndarray
    old: np.ndarray
    advantages: np.ndarray
    weights: np.ndarray
    clip: float
    teacher: Pooled | None = None
    drawn: np.ndarray | None = None
    drawn_old: np.ndarray | None = None
    drawn_advantages: np.ndarray | None = None


@dataclass(frozen=True)
class Mechanism:
    """How a step hides single examples, see `dpsgd`.

    clip: C, largest norm of one example's gradient.   noise: σ, the noise's standard deviation ÷ C.
    of: the contender; batches are the same for all of them, noise that were would cancel between two.
    """

    clip: float
    noise: float
    of: str = ""


@dataclass(frozen=True)
class Stream:
    """Examples that a phase draws batches from, and what it wants of them.

    teacher: responses on all of `examples`, row by row, in their order.
    batch_size: examples per optimiser step.   weight: of this stream in the step's loss.
    augment: vary the inputs at random (images); off where the teacher saw them as they are.
    lesson: examples are generated sequences, to be learnt from by policy gradient besides the objective.
    mechanism: of private examples, whose batches are then drawn example by example (Poisson sampling), so
        that `batch_size` is only the mean.
    guide: what the objective's feature and prototype terms are about.
    """

    examples: Examples
    batch_size: int
    objective: Objective = Objective()
    teacher: Pooled | None = None
    weight: float = 1.0
    augment: bool = False
    lesson: Lesson | None = None
    mechanism: Mechanism | None = None
    guide: Guide | None = None

    def batches(self, steps: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The indices of every step: reshuffled passes over all examples, none left out; or with a
        mechanism each example by a draw of its own, so that batches differ in size and may be empty."""
        n, size = len(self.examples), self.batch_size
        if self.mechanism is not None:
            return [np.flatnonzero(rng.random(n) < size / n) for _ in range(steps)]
        passes = -(-steps * size // n)
        stream = np.concatenate([rng.permutation(n) for _ in range(passes)])
        return [stream[k * size : (k + 1) * size] for k in range(steps)]


@dataclass(frozen=True)
class Phase:
    """`training.steps` optimiser steps, each on a batch from every stream.

    round, rounds: where the learning-rate schedule stands (it spans all rounds).
    key: what the random draws are for, see `fedsim.seeding`.
    proximal: μ of ½μ‖w − w_t‖², w_t the weights at the beginning of the phase.
    """

    streams: tuple[Stream, ...]
    training: Training
    round: int
    rounds: int
    key: tuple[int | str, ...]
    proximal: float = 0.0

    def learning_rate(self, step: int) -> float:
        """At `step` of this phase, 0-based: linear warm-up, then cosine to FLOOR, or constant."""
        t = self.training
        done = (self.round - 1) * t.steps + step
        warm = min(1.0, (done + 1) / (t.warmup + 1))
        if t.schedule == "constant":
            return t.learning_rate * warm
        cosine = 0.5 * (1 + math.cos(math.pi * done / max(1, self.rounds * t.steps)))
        return t.learning_rate * warm * (FLOOR + (1 - FLOOR) * cosine)


@dataclass(frozen=True)
class Fit:
    """What a phase did: means over its steps (nats) of the loss and of each weighted term."""

    loss: float
    terms: dict[str, float]
    steps: int
