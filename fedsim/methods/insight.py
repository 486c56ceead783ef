"""What federated distillation exchanges besides responses, and what the student learns from it.

    up      H_k [n, r], the leading directions of k's hidden states on n fixed proxy samples, the anchors
    pool    G [n, r], what all H_k agree on                                   `knowledge.features`
    learn   β · ‖W f(x) − G(x)‖² ÷ r, with a map W that the student leaves behind

for each of the layers that travel in a round. What was learnt about a layer is remembered, so that
layers can take turns.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.mixture import MixturePool
from fedsim.aggregation.responses import BestPool, ResponsePool
from fedsim.config import Settings
from fedsim.errors import ConfigError
from fedsim.knowledge.features import ConsensusSum, aligned, reduced
from fedsim.methods.base import Site
from fedsim.seeding import generator
from fedsim.training import Guide, HeadSpec
from fedsim.types import Knowledge, Mixture, Responses
from fedsim.wire.messages import Expectation
from fedsim.world import World

Depth = Annotated[float, Field(gt=0, le=1)]


class FeatureSettings(Settings):
    weight: Annotated[float, Field(ge=0)] = 0.0
    """β, of the squared error between the student's mapped features and the pooled ones; 0: none are sent."""
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)] = (1.0,)
    """Which layers, as parts of a model's depth: 1 is the state that answers are read from."""
    layers_per_round: Annotated[int, Field(ge=1)] | None = None
    """How many of them travel in a round, in turn; absent: all."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """r: numbers that a hidden state is reduced to."""
    samples: Annotated[int, Field(ge=2, le=4096)] = 512
    """n: proxy samples that features are sent of, at most. The coordinator holds n² numbers a layer."""


def check(features: FeatureSettings, where: str) -> None:
    """Raise ConfigError where settings contradict each other."""
    depths, number = features.depths, features.layers_per_round
    if any(a >= b for a, b in pairwise(depths)):
        raise ConfigError(f"{where}.features.depths", list(depths), "ascending numbers, none twice")
    if number is not None and number > len(depths):
        expected = f"at most {len(depths)}, the number of depths"
        raise ConfigError(f"{where}.features.layers_per_round", number, expected)


class Insight:
    """The exchange of one run. Holds settings only; what is learnt lies in the desk's memory."""

    def __init__(self, world: World, features: FeatureSettings) -> None:
        self.world, self.features = world, features

    @property
    def shared(self) -> bool:
        """Whether anything of it travels."""
        return self.features.weight > 0

    def heads(self) -> HeadSpec | None:
        return HeadSpec(self.features.depths, self.rank) if self.shared else None

    @cached_property
    def anchors(self) -> np.ndarray:
        """The proxy samples that features are sent of, [n] ascending; the same in every round."""
        size = self.world.proxy_size
        chosen = generator(self.world.seed, "anchors").permutation(size)[: self.features.samples]
        return np.sort(chosen)

    @property
    def rank(self) -> int:
        return min(self.features.rank, len(self.anchors))

    def layers(self, round: int) -> list[int]:
        """The places in `depths` of the layers that travel in a round."""
        total = len(self.features.depths)
        number = min(self.features.layers_per_round or total, total)
        return sorted((np.arange(number) + (round - 1) * number) % total)

    # Messages -------------------------------------------------------------------------------------

    def expect(
        self, answers: Expectation | None, direction: str, round: int, sender: int
    ) -> Expectation | None:
        """What is expected beside `answers`, together with them."""
        if not self.shared or direction == "down":
            return answers
        features = Expectation(
            "features",
            direction,
            round,
            sender,
            proxy_size=self.world.proxy_size,
            samples=self.anchors,
            layers=len(self.layers(round)),
            rank=self.rank,
        )
        parts = (features,) if answers is None else (answers, features)
        return Expectation("mixture", direction, round, sender, parts=parts)

    def with_own(self, site: Site, round: int, answers: Responses) -> Knowledge:
        """A participant's answers with what else it sends."""
        if not self.shared:
            return answers
        depths = [self.features.depths[layer] for layer in self.layers(round)]
        hidden = site.learner.hidden(site.public.proxy, self.anchors, depths)
        return Mixture(answers, reduced(self.anchors, hidden, self.rank))

    def pool(self, round: int, responses: ResponsePool | BestPool) -> MixturePool:
        if not self.shared:
            return MixturePool(responses)
        people = self.world.config.participants.count
        return MixturePool(responses, ConsensusSum(len(self.layers(round)), len(self.anchors), people))

    # Learning -------------------------------------------------------------------------------------

    def learn(
        self, memory: dict[str, np.ndarray], round: int, pool: MixturePool | None, taught: Pooled
    ) -> Guide | None:
        """What the student is told of the samples that it is taught, with what is remembered."""
        if not self.shared:
            return None
        if pool is not None and pool.features is not None:
            for layer, embedding in zip(self.layers(round), pool.features.result(self.rank), strict=True):
                earlier = memory.get(_name(layer))
                now = embedding if earlier is None else aligned(embedding, earlier)
                memory[_name(layer)] = np.ascontiguousarray(now, np.float32)
        known = np.isin(taught.samples, self.anchors)
        rows = np.searchsorted(self.anchors, taught.samples[known])
        embeddings: list[np.ndarray | None] = []
        for layer in range(len(self.features.depths)):
            learnt = memory.get(_name(layer))
            if learnt is None:
                embeddings.append(None)
                continue
            embedding = np.zeros((len(known), self.rank), np.float32)
            embedding[known] = learnt[rows]
            embeddings.append(embedding)
        return Guide(known, tuple(embeddings))


def _name(layer: int) -> str:
    """Of a layer's embedding in the desk's memory."""
    return f"embedding.{layer}"
