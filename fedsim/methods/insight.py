"""What federated distillation exchanges besides responses, and what the student learns from it.

    up      H_k [n, r], the leading directions of k's hidden states on n fixed proxy samples, the anchors
    pool    G [n, r], what all H_k agree on                                   `knowledge.features`
    learn   β · ‖W f(x) − G(x)‖² ÷ r, with a map W that the student leaves behind

for each of the layers that travel in a round. What was learnt about a layer is remembered, so that
layers can take turns. In the space of the deepest layer:

    down    G and C, the prototypes of each group: k centroids, counts, confidence
    up      C_k of k's own examples, where k's best linear map to G puts them   `knowledge.prototypes`
    pool    C = Σ n_k C_k ÷ Σ n_k; of what nobody has sent, the proxy set's own
    learn   γ · confidence · ‖W f(x) − c‖² ÷ r, c the nearest prototype of x's group

An adaptation layer h = f ⊙ (1 + E d(x)), trained with the student, reads whose answers x is taught by:
`models.heads`, `knowledge.domains`. Nothing travels for it.

A group is a label or prompt, and a proxy sample's is what its teachers think likeliest. Where examples
have none (text) it is a concept: a cell of the anchors, by k-means at the coordinator.

Against liars: everybody has one vote on G, counts no more examples than it registered with, and can't place
a centroid outside of G. With a defence, G and C are pooled by those who agree, see `knowledge.robust`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import Pooled
from fedsim.aggregation.mixture import AnswerPool, MixturePool
from fedsim.aggregation.responses import EQUAL
from fedsim.aggregation.robust import Guard
from fedsim.aggregation.weights import Weighing
from fedsim.config import Settings
from fedsim.errors import ConfigError
from fedsim.knowledge import domains as domain
from fedsim.knowledge.domains import DomainSum
from fedsim.knowledge.features import ConsensusSum, LinearMap, aligned, as_features, reduced
from fedsim.knowledge.prototypes import PrototypeSum, build, complete, filled, k_means, nearest, spread_out
from fedsim.knowledge.robust import RobustConsensus, RobustPrototypes
from fedsim.learning.training import Guide, HeadSpec
from fedsim.methods.base import Site
from fedsim.seeding import generator
from fedsim.types import Knowledge, Mixture, Prototypes, Responses
from fedsim.wire.expectation import Expectation
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
    steps: Annotated[int, Field(ge=1, le=127)] = 15
    """Numbers are rounded to −steps … steps: with 127 they cost 7.8 bits each, with 15 4.5, and what they
    span is then 8 % off."""
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


class PrototypeSettings(Settings):
    weight: Annotated[float, Field(ge=0)] = 0.0
    """γ, of the student's squared distance to prototypes; 0: there are none. They live in the space of the
    features, which travel for their sake even where their own weight is 0."""
    per_group: Annotated[int, Field(ge=1, le=64)] = 1
    """k: centroids of each class, prompt or concept, at most."""
    concepts: Annotated[int, Field(ge=1, le=4096)] = 16
    """Cells of the proxy set, where examples have neither label nor prompt."""


def sent(features: FeatureSettings, prototypes: PrototypeSettings, rounds: int) -> frozenset[str]:
    """What participants send in so many rounds; of prototypes nobody has a space in the first."""
    both = {"features": features.weight + prototypes.weight > 0 and rounds > 0,
            "prototypes": prototypes.weight > 0 and rounds > 1}  # fmt: skip
    return frozenset(kind for kind, travels in both.items() if travels)


class Insight:
    """The exchange of one run. Holds settings only; what is learnt lies in the desk's memory."""

    def __init__(
        self, world: World, features: FeatureSettings, prototypes: PrototypeSettings, adaptation: bool
    ) -> None:
        self.world, self.features, self.prototypes = world, features, prototypes
        self.adaptation = adaptation

    @property
    def shared(self) -> bool:
        """Whether anything of it travels."""
        return self.features.weight > 0 or self.prototypes.weight > 0

    @property
    def labelled(self) -> bool:
        """Whether private examples carry what they are grouped by."""
        data = self.world.config.data
        captions = data.caption_column is not None and data.label_column is None
        return data.reads == "image" or (data.reads == "image_text" and not captions)

    @property
    def groups(self) -> int:
        return self.world.interface.classes if self.labelled else self.prototypes.concepts

    def heads(self) -> HeadSpec | None:
        domains = domain.SIZE if self.adaptation else 0
        if self.shared:
            return HeadSpec(self.features.depths, self.rank, domains)
        return HeadSpec(domains=domains) if domains else None

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

    @property
    def deepest(self) -> int:
        """The place in `depths` of the layer that prototypes are of."""
        return len(self.features.depths) - 1

    # Messages -------------------------------------------------------------------------------------

    def expect(
        self, answers: Expectation | None, direction: str, round: int, sender: int
    ) -> Expectation | None:
        """What is expected beside `answers`, together with them."""
        mine = self._expect_parts(direction, round, sender)
        if not mine:
            return answers
        parts = mine if answers is None else [answers, *mine]
        return Expectation("mixture", direction, round, sender, parts=tuple(parts))

    def _expect_parts(self, direction: str, round: int, sender: int) -> list[Expectation]:
        if not self.shared:
            return []
        size, envelope = self.world.proxy_size, (direction, round, sender)
        layers = len(self.layers(round)) if direction == "up" else 1
        features = Expectation(
            "features", *envelope, proxy_size=size, samples=self.anchors, layers=layers, rank=self.rank
        )
        if round == 1 or not self.prototypes.weight:
            return [features] if direction == "up" else []
        prototypes = Expectation(
            "prototypes", *envelope, rank=self.rank, groups=self.groups, slots=self.prototypes.per_group
        )
        return [features, prototypes]

    def tell(self, memory: dict[str, np.ndarray], answers: Responses | None) -> Knowledge | None:
        """The coordinator's answers with what else goes down."""
        if not self.prototypes.weight:
            return answers
        prototypes = remembered(memory)
        if prototypes is None:
            return None if answers is None else Mixture(answers)
        return Mixture(answers, as_features(self.anchors, [memory[_name(self.deepest)]]), prototypes)

    def with_own(self, site: Site, round: int, told: Mixture, answers: Responses) -> Knowledge:
        """A participant's answers with what else it sends.   told: what it heard in this round."""
        if not self.shared:
            return answers
        places = [*self.layers(round), self.deepest]
        depths = [self.features.depths[place] for place in places]
        *hidden, last = site.learner.hidden(site.public.proxy, self.anchors, depths)
        prototypes = None
        if told.features is not None and told.prototypes is not None:
            prototypes = self._own(site, LinearMap(last, told.features.values(0)), told.prototypes)
        return Mixture(answers, reduced(self.anchors, hidden, self.rank, self.features.steps), prototypes)

    def _own(self, site: Site, place: LinearMap, start: Prototypes) -> Prototypes:
        """The prototypes of a participant's own examples.   place: from its hidden states to all's space."""
        own = site.shard.train
        depth = self.features.depths[self.deepest]
        (hidden,) = site.learner.hidden(own, np.arange(len(own)), [depth])
        points = place(hidden)
        groups = own.arrays["labels"] if self.labelled else nearest(points, start)
        return build(points, groups, self.prototypes.per_group, start, split=False)

    def pool(
        self, round: int, responses: AnswerPool, weighing: Weighing = EQUAL, guard: Guard | None = None
    ) -> MixturePool:
        """weighing: by which the answers are pooled.   guard: against liars."""
        domains = DomainSum(self.world.seed, responses.samples) if self.adaptation else None
        features: ConsensusSum | RobustConsensus | None = None
        prototypes: PrototypeSum | RobustPrototypes | None = None
        people, size, layers = self.world.config.participants.count, len(self.anchors), self.layers(round)
        if self.shared and guard is None:
            features = ConsensusSum(len(layers), size, people)
        elif self.shared and guard is not None:
            features = RobustConsensus(len(layers), size, guard.suspected)
        slots, farthest = self.prototypes.per_group, size**0.5  # no number of an embedding is larger
        if self.prototypes.weight and guard is None:
            prototypes = PrototypeSum(self.groups, slots, self.rank, self.world.sizes, farthest)
        elif self.prototypes.weight and guard is not None:
            prototypes = RobustPrototypes(self.rank, self.world.sizes, farthest, guard)
        return MixturePool(responses, features, prototypes, domains, weighing)

    # Learning -------------------------------------------------------------------------------------

    def learn(
        self, memory: dict[str, np.ndarray], round: int, pool: MixturePool | None, taught: Pooled
    ) -> Guide | None:
        """What the student is told of the samples that it is taught, with what is remembered."""
        if self.adaptation:
            domains = self._learn_domains(memory, pool)[taught.samples]
            return replace(self._learn_inner(memory, round, pool, taught), domains=domains)
        return self._learn_inner(memory, round, pool, taught) if self.shared else None

    def _learn_inner(
        self, memory: dict[str, np.ndarray], round: int, pool: MixturePool | None, taught: Pooled
    ) -> Guide:
        if not self.shared:
            return Guide(np.zeros(len(taught.samples), bool))
        self._learn_embeddings(memory, round, pool)
        known = np.isin(taught.samples, self.anchors)
        rows = np.searchsorted(self.anchors, taught.samples[known])
        learnt = [memory.get(_name(layer)) for layer in range(len(self.features.depths))]
        embeddings = tuple(None if e is None else _spread(e[rows], known) for e in learnt)
        deepest = learnt[self.deepest]
        if not self.prototypes.weight or deepest is None:
            return Guide(known, embeddings)
        before = remembered(memory)
        if self.labelled:
            groups = likeliest(taught)
        else:
            groups = np.full(len(known), -1)
            groups[known] = cells(deepest, self.groups, before)[rows]
        slots = self.prototypes.per_group
        now = build(deepest[rows], groups[known], slots, complete(before, slots) if before else None)
        if pool is not None and pool.prototypes is not None:
            now = filled(pool.prototypes.result(), now)
        elif before is not None:
            now = filled(before, now)
        if not len(now):
            return Guide(known, embeddings)
        remember(memory, now)
        return Guide(known, embeddings, groups, now)

    def _learn_embeddings(self, memory: dict[str, np.ndarray], round: int, pool: MixturePool | None) -> None:
        """Remember what all agree on of the layers that travelled, turned to where they were."""
        if pool is None or pool.features is None:
            return
        for layer, embedding in zip(self.layers(round), pool.features.result(self.rank), strict=True):
            earlier = memory.get(_name(layer))
            now = embedding if earlier is None else aligned(embedding, earlier)
            memory[_name(layer)] = np.ascontiguousarray(now, np.float32)

    def _learn_domains(self, memory: dict[str, np.ndarray], pool: MixturePool | None) -> np.ndarray:
        """d of all proxy samples, [N, D] float32: as they were last answered; zeros before."""
        domains = memory.get("domains", np.zeros((self.world.proxy_size, domain.SIZE), np.float32)).copy()
        if pool is not None and pool.domains is not None:
            domains[pool.domains.samples] = pool.domains.result()
        memory["domains"] = domains
        return domains


def _spread(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[N, r] with `rows` where known, 0 elsewhere."""
    spread = np.zeros((len(known), rows.shape[1]), np.float32)
    spread[known] = rows
    return spread


def likeliest(taught: Pooled) -> np.ndarray:
    """The class that each row gives most to, [R] int64; the first of several."""
    row = np.repeat(np.arange(len(taught.offsets) - 1), np.diff(taught.offsets))
    order = np.lexsort((-taught.probs, row))
    likeliest: np.ndarray = taught.ids[order[taught.offsets[:-1]]].astype(np.int64)
    return likeliest


def cells(points: np.ndarray, number: int, prototypes: Prototypes | None) -> np.ndarray:
    """The concept of each anchor [n, r]: of its nearest prototype, or of k-means where there is none yet."""
    if prototypes is not None:
        return nearest(points, prototypes)
    return k_means(points, spread_out(points, number))[1]


_PROTOTYPES = "prototypes."


def remember(memory: dict[str, np.ndarray], prototypes: Prototypes) -> None:
    memory |= {_PROTOTYPES + f.name: getattr(prototypes, f.name) for f in fields(Prototypes)}


def remembered(memory: dict[str, np.ndarray]) -> Prototypes | None:
    """What `remember` put into the desk's memory."""
    if _PROTOTYPES + "groups" not in memory:
        return None
    return Prototypes(*(memory[_PROTOTYPES + f.name] for f in fields(Prototypes)))


def _name(layer: int) -> str:
    """Of a layer's embedding in the desk's memory."""
    return f"embedding.{layer}"
