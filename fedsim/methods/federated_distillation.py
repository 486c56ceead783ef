"""Federated distillation: institutions teach one student through their responses on a public set.

Each round the student's responses go down, participants learn from them while they train on their
own shard, answer a fresh part of the proxy set, and the student learns from the pooled answers:

    down    s(x) = q_student(x)                                       quantised, coded
    local   L_k = CE(own shard) + λ · [KL(s ‖ p_k) + CE where labelled](proxy)
    up      p_k(x), as counts on a grid of `levels` quanta            quantised, coded
    pool    p̄(x) = Σ_k w_k(x) p_k(x) ÷ Σ_k w_k(x),   then p̄^β ÷ Σ p̄^β
    learn   L = response · T² KL(p̄ ‖ q_student) + task · CE(proxy, where labelled)

Sources: mean of probabilities and its sharpening from DS-FL (Itahara et al., arXiv 2008.06180) with
the power form of SCARLET (arXiv 2504.19602); probabilities on a simplex grid from CFD (Sattler et
al., 2021); random counts from sparse logit sampling (arXiv 2503.16870); temperature from Hinton et
al. (arXiv 1503.02531). w_k(x) = exp(−confidence · loss_k(x)): where the proxy set carries its own
answers (the next token), who predicts a sample better weighs more on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import CountSum
from fedsim.aggregation.responses import ResponsePool, as_pooled, recall, sharpen
from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.seeding import generator
from fedsim.training import Fit, Objective, Stream
from fedsim.types import COORDINATOR, Knowledge, Responses
from fedsim.wire.messages import Expectation

if TYPE_CHECKING:
    from fedsim.world import World


class DistillationSettings(Settings):
    proxy_per_round: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the proxy set that is asked about in a round: slices of one shuffle, round and round."""
    levels: Annotated[int, Field(ge=1, le=65535)] = 255
    """Quanta a probability row is divided into: 255 for a few classes, 15–63 for vocabularies."""
    quantiser: Literal["largest_remainder", "sample", "systematic"] = "largest_remainder"
    """`largest_remainder` is closest; `systematic` and `sample` are unbiased, for vocabularies."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """T, of teacher and student; the loss is multiplied by T²."""
    response: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the pooled responses in the student's loss."""
    divergence: Literal["forward", "reverse", "skew", "skew_reverse", "jsd"] = "forward"
    """By what the student differs from them; `forward` is KL(p̄ ‖ q), see `fedsim.losses.divergence`."""
    skew: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """λ of the skew divergences, β of `jsd`."""
    task: Annotated[float, Field(ge=0)] = 0.3
    """Weight of cross-entropy on the proxy set, where it is labelled (text: the next token)."""
    sharpen: Annotated[float, Field(gt=0)] = 1.0
    """β of Enhanced ERA: 1 leaves the pooled probabilities as they are, 2 sharpens."""
    confidence: Annotated[float, Field(ge=0)] = 0.0
    """How much a lower loss on a sample raises a participant's weight there; 0 is uniform."""
    remember: bool = True
    """Whether the student goes on learning from earlier answers to samples not asked again."""
    digest: Annotated[float, Field(ge=0)] = 0.5
    """λ, weight of what participants learn from the proxy set beside their shard; 0 is one-way."""
    digest_batch: Annotated[int, Field(ge=1)] = 8
    """Proxy samples in each of a participant's steps."""


class FederatedDistillation(Method):
    samples_known: ClassVar[bool] = True
    Settings: ClassVar[type[Settings]] = DistillationSettings
    settings: DistillationSettings

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        """The student must have something to learn from."""
        settings = DistillationSettings.model_validate(entry.options)
        if not settings.response and not (settings.task and config.data.proxy_answered):
            raise ConfigError(f"{where}.response", settings.response, "above 0: nothing else is learnt from")
        if settings.confidence and config.data.reads == "image_text" and not config.data.proxy_labelled:
            raise ConfigError(
                f"{where}.confidence", settings.confidence, "0 where no prompt is known as right"
            )

    def samples(self, round: int) -> np.ndarray:
        """The proxy samples of a round, ascending; both ends know them from the seed."""
        return proxy_slice(self.world, round, self.settings.proxy_per_round)

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        if round == 1 or not self.settings.digest:
            return None  # the student is still the public start, which everybody has
        return self._express(desk, round, COORDINATOR)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        streams = [self.labelled(site.shard.train, site.participant)]
        if isinstance(received, Responses):
            streams.append(
                Stream(
                    examples=site.public.proxy.take(received.samples),
                    batch_size=self.settings.digest_batch,
                    objective=Objective(response=1.0, task=self.settings.task),
                    teacher=as_pooled(received),
                    weight=self.settings.digest,
                )
            )
        elif self.settings.digest and self.world.proxy_labelled:
            streams.append(Stream(site.public.proxy, self.settings.digest_batch, weight=self.settings.digest))
        fit = site.learner.fit(self.phase(round, site.participant, "local", *streams))
        return self._express(site, round, site.participant), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down" and (round == 1 or not self.settings.digest):
            return None
        return Expectation(
            kind="responses",
            direction=direction,
            round=round,
            sender=sender,
            classes=self.world.interface.classes,
            positions=self.world.positions,
            levels=self.settings.levels,
            proxy_size=self.world.proxy_size,
            samples=self.samples(round),
        )

    def pool(self, desk: Desk, round: int) -> Pool | None:
        reference = None
        if self.settings.confidence and self.world.proxy_labelled:
            reference = desk.learner.sample_losses(desk.public.proxy, self.samples(round))
        sums = CountSum(self.world.positions, self.world.interface.classes, self.settings.levels)
        return ResponsePool(sums, self.settings.confidence, reference)

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, ResponsePool)
        pooled = sharpen(pool.sum.result(), self.settings.sharpen)
        if self.settings.remember:
            pooled = recall(desk.memory, pooled)
        stream = Stream(
            examples=desk.public.proxy.take(pooled.samples),
            batch_size=self.world.config.student.training.batch_size,
            objective=Objective(
                self.settings.response,
                self.settings.task,
                self.settings.temperature,
                self.settings.divergence,
                self.settings.skew,
            ),
            teacher=pooled,
            augment=self.world.config.student.training.augment,
        )
        return desk.learner.fit(self.phase(round, COORDINATOR, "distil", stream))

    def _express(self, who: Site | Desk, round: int, sender: int) -> Responses:
        return who.learner.express(
            who.public.proxy,
            self.samples(round),
            levels=self.settings.levels,
            quantiser=self.settings.quantiser,
            key=self.key(round, sender, "express"),
        )


def proxy_slice(world: World, round: int, part: float) -> np.ndarray:
    """The proxy samples of a round, [n] ascending: slices of one shuffle, round and round.

    No sample is asked twice before all were asked once.
    """
    size = world.proxy_size
    number = max(1, round_half_up(part * size))
    shuffled = generator(world.seed, "proxy samples").permutation(size)
    first = (round - 1) * number
    return np.sort(shuffled[np.arange(first, first + number) % size])


def round_half_up(value: float) -> int:
    """To the nearest integer; Python's own rounds halves to even."""
    return int(value + 0.5)
