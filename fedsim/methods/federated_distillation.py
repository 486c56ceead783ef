"""Federated distillation: institutions teach one student through their responses on a public set.

Each round the student's responses go down, participants learn from them while they train on their
own shard, answer a fresh part of the proxy set, and the student learns from the pooled answers:

    down    s(x) = q_student(x)                                       quantised, coded
    local   L_k = CE(own shard) + λ · [KL(s ‖ p_k) + CE where labelled](proxy)
    up      p_k(x), as counts on a grid of `levels` quanta            quantised, coded
    pool    p̄(x) = Σ_k w_k(x) p_k(x) ÷ Σ_k w_k(x),   then p̄^β ÷ Σ p̄^β
    learn   L = response · T² D(p̄, q_student) + task · CE(proxy, where labelled)

Sources: mean of probabilities and its sharpening from DS-FL (Itahara et al., arXiv 2008.06180) with
the power form of SCARLET (arXiv 2504.19602); probabilities on a simplex grid from CFD (Sattler et
al., 2021); random counts from sparse logit sampling (arXiv 2503.16870); temperature from Hinton et
al. (arXiv 1503.02531). What w_k(x) may be made of is in `confidence` and `aggregation.weights`, D in
`losses.divergence`, and what changes from round to round in `schedules`: the order of the samples, the
levels, and whether anything is sent at all. What the participants can't know of that travels in the
broadcast: its samples and levels are those of the round, and where none comes none is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedsim import events, schedules
from fedsim.aggregation.disagreement import Disagreement
from fedsim.aggregation.exact import CountSum, Pooled
from fedsim.aggregation.geometric import LogSum
from fedsim.aggregation.gnmax import GNMaxPool, GNMaxSettings, epsilon_of
from fedsim.aggregation.masks import MaskedSum
from fedsim.aggregation.mixture import AnswerPool, MixturePool, as_mixture
from fedsim.aggregation.responses import BestPool, ResponsePool, as_pooled, recall, sharpen
from fedsim.aggregation.robust import TRUSTING, Guard, RobustPool
from fedsim.aggregation.weights import REACH, Weighing, reach
from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError
from fedsim.learning.training import Fit, HeadSpec, Objective, Stream
from fedsim.methods import insight, readout
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.methods.distillation_settings import DistillationSettings, demands
from fedsim.methods.insight import Insight
from fedsim.methods.readout import Readout
from fedsim.schedules import Agenda
from fedsim.seeding import generator
from fedsim.types import COORDINATOR, Examples, Knowledge, Public, Responses, Update
from fedsim.wire import cache
from fedsim.wire.delta import Reference
from fedsim.wire.expectation import Expectation, Style
from fedsim.wire.feedback import Feedback
from fedsim.wire.quantise import TAILED

if TYPE_CHECKING:
    from fedsim.learning.confidence import Assessment
    from fedsim.learning.judges import Judge
    from fedsim.learning.learner import Learner
    from fedsim.world import World


class FederatedDistillation(Method):
    samples_known: ClassVar[bool] = True
    Settings: ClassVar[type[Settings]] = DistillationSettings
    settings: DistillationSettings

    @cached_property
    def insight(self) -> Insight:
        want = self.settings
        return Insight(self.world, want.features, want.prototypes, want.adaptation)

    def readout(self, round: int) -> Readout | None:
        """In the round that is one."""
        want = self.settings.readout
        last = round == self.world.config.rounds
        return Readout(self.world, want, self.contender) if want is not None and last else None

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        """The student must have something to learn from."""
        settings = DistillationSettings.model_validate(entry.options)
        if not settings.response and not (settings.task and config.data.proxy_answered):
            raise ConfigError(f"{where}.response", settings.response, "above 0: nothing else is learnt from")
        for field, fits, expected in demands(settings, config):
            if not fits:
                raise ConfigError(f"{where}.{field}", getattr(settings, field), expected)
        insight.check(settings.features, where)
        if settings.readout is not None:
            readout.check(config, entry, where)
        if config.participants.privacy is not None and settings.prototypes.weight:
            expected = "0: prototypes are means of private examples without noise (participants.privacy)"
            raise ConfigError(f"{where}.prototypes.weight", settings.prototypes.weight, expected)

    @classmethod
    def sends(cls, config: RunConfig, entry: MethodConfig) -> frozenset[str]:
        want = DistillationSettings.model_validate(entry.options)
        rounds = config.rounds - (want.readout is not None)  # whose round is the last
        return insight.sent(want.features, want.prototypes, rounds)

    def samples(self, round: int) -> np.ndarray:
        """The proxy samples of a round without a curriculum, ascending; both ends know them from the seed."""
        return proxy_slice(self.world, round, self.settings.proxy_per_round)

    def heads(self) -> HeadSpec | None:
        return self.insight.heads()

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        if readout := self.readout(round):
            return readout.tell(desk, round)
        if round == 1 and self.settings.readout is not None:
            desk.learner.check_last_layer()  # rather than when all rounds but the last are done
        agenda = self._agenda(desk, round)
        if round == 1 or not agenda.sends:
            return None  # in round 1 the student is still the public start, which everybody has
        answers = self._express(desk, round, COORDINATOR, agenda) if self.settings.digest else None
        if answers is not None and self.settings.delta == "both":
            cache.note(desk.memory, answers, round)
        return self.insight.tell(desk.memory, answers)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if readout := self.readout(round):
            assert isinstance(received, Update)
            return readout.own(site, round, received), None
        streams = [self.labelled(site.shard.train, site.participant)]
        told = as_mixture(received)
        if told.responses is not None:
            if self.settings.delta == "both":
                cache.note(site.memory, told.responses, round)
            answered = site.public.proxy.take(told.responses.samples)
            wanted = Objective(response=1.0, task=self.settings.task)
            streams.append(self._digested(answered, wanted, as_pooled(told.responses)))
        elif self.settings.digest and self.world.proxy_labelled:
            streams.append(self._digested(site.public.proxy, Objective()))
        fit = site.learner.fit(self.phase(round, site.participant, "local", *streams))
        if received is None and round > 1 and self.settings.frequency == "adaptive":
            return None, fit
        agenda = Agenda(self.samples(round), self._levels(round))
        if told.responses is not None:
            agenda = Agenda(told.responses.samples, told.responses.levels)
        own = self._assess(site.learner, site.shard.train, site.public)
        answers = self._express(site, round, site.participant, agenda, own.judge)
        if self.settings.personal:
            assert own.losses is not None
            answers = replace(answers, skills=own.losses.astype(np.float32))
        return self.insight.with_own(site, round, told, answers), fit

    def _digested(self, examples: Examples, objective: Objective, teacher: Pooled | None = None) -> Stream:
        # Varied: a few hundred images are soon known by heart, the student's errors with them.
        augment = self.world.config.participants.training.augment
        want = self.settings
        return Stream(examples, want.digest_batch, objective, teacher, want.digest, augment)

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if readout := self.readout(round):
            return readout.expect(direction, round, sender)
        answers = self._expect_answers(direction, round, sender)
        return self.insight.expect(answers, direction, round, sender)

    def _expect_answers(self, direction: str, round: int, sender: int) -> Expectation | None:
        if direction == "down" and (round == 1 or not self.settings.digest):
            return None
        ordered = self.settings.curriculum != "none" and round > 1
        return self.answers(
            direction,
            round,
            sender,
            self._levels(round),
            coarser=self.settings.levels == "dadaquant",
            samples=None if ordered else self.samples(round),
            groups=self._groups if direction == "up" and self.settings.personal else 0,
            tail=self.settings.quantiser in TAILED,
            reference=Reference.none(self.world.positions) if self._refers(direction, round) else None,
        )

    def agreed(self, expected: Expectation, pool: Pool, told: Knowledge | None = None) -> Expectation:
        if isinstance(pool, MaskedSum):
            return expected
        assert isinstance(pool, MixturePool)
        if expected.kind == "mixture":
            return replace(expected, parts=tuple(self.agreed(part, pool, told) for part in expected.parts))
        if expected.kind != "responses":
            return expected
        samples, levels = pool.responses.samples, pool.responses.levels
        reference = self.style("up", expected.round, {}, told).reference
        return replace(expected, samples=samples, levels=levels, coarser=False, reference=reference)

    def recalled(self, expected: Expectation, memory: dict[str, np.ndarray]) -> Expectation:
        if expected.kind == "mixture":
            return replace(expected, parts=tuple(self.recalled(part, memory) for part in expected.parts))
        if expected.kind != "responses" or self.settings.delta != "both":
            return expected
        known = cache.held(memory, self.world.positions)
        return expected if known is None else replace(expected, reference=known)

    def style(
        self, direction: str, round: int, memory: dict[str, np.ndarray], told: Knowledge | None
    ) -> Style:
        reference = None
        if self._refers(direction, round):
            answers = as_mixture(told).responses
            if direction == "up" and answers is not None:
                reference = Reference.of(answers)
            elif direction == "down":
                asked = events.asked(self.world.config, round)
                reference = cache.common(memory, self.world.positions, asked)
        return Style(coder=self.settings.coder, reference=reference)

    def _refers(self, direction: str, round: int) -> bool:
        """Whether messages may be coded against what both ends hold."""
        if round == 1 or not self.settings.digest or self.readout(round):  # no answers are broadcast
            return False
        return self.settings.delta in (("up", "both") if direction == "up" else ("both",))

    def pool(self, desk: Desk, round: int) -> Pool | None:
        if readout := self.readout(round):
            return readout.pool(round)
        agenda, want = self._agenda(desk, round), self.settings
        if not agenda.sends:
            return None
        if want.pate is not None:
            return self.insight.pool(round, self._votes(round, agenda, want.pate))
        shape = (self.world.positions, self.world.interface.classes, agenda.levels)
        apart = Disagreement(*shape) if want.curriculum != "none" else None
        if want.defence != "none":
            trust = None
            if want.defence in TRUSTING:
                trust = desk.memory.get("trust", np.zeros(self.world.config.participants.count))
            guard = Guard(want.defence, want.suspected, want.guard)
            asked = desk.learner.asked(desk.public.proxy, agenda.samples)
            robust = RobustPool(
                agenda.samples, agenda.levels, guard, trust=trust, disagreement=apart, asked=asked
            )
            return self.insight.pool(round, robust, guard=guard)
        weighing = self._weighing(desk, round, agenda.samples)
        if want.teachers == "best":
            best = BestPool(agenda.samples, *shape, weighing, apart)
            return self.insight.pool(round, best, weighing)
        sums = LogSum(*shape) if want.mean == "logits" else CountSum(*shape)
        answers = ResponsePool(agenda.samples, sums, weighing, apart)
        return self.insight.pool(round, answers, weighing)

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        training, want = self.world.config.student.training, self.settings
        if want.delta == "both":
            cache.acknowledge(desk.memory, round, desk.delivered, self.world.config.participants.count)
        if (readout := self.readout(round)) is not None:
            assert isinstance(pool, MaskedSum)
            readout.learn(desk, pool)
            return None
        pooled = None
        assert pool is None or isinstance(pool, MixturePool)
        if pool is not None:
            pooled = sharpen(pool.responses.result(), want.sharpen)
            self._learn_order(desk, pool.responses)
            if isinstance(pool.responses, RobustPool) and pool.responses.trust is not None:
                desk.memory["trust"] = pool.responses.trust
            if isinstance(pool.responses, GNMaxPool):
                desk.memory["gnmax"] = desk.memory.get("gnmax", 0.0) + pool.responses.cost
                desk.memory["answered"] = np.array([len(pooled.samples) / len(pool.responses.samples)])
        if pooled is not None and not len(pooled.samples):
            pooled = None  # no question was answered
        if pooled is None and "samples" not in desk.memory:
            return None
        if want.remember or pooled is None:
            pooled = recall(desk.memory, pooled, self.world.positions, self.world.interface.classes)
        stream = Stream(
            examples=desk.public.proxy.take(pooled.samples),
            batch_size=training.batch_size,
            objective=Objective(
                want.response,
                want.task,
                want.temperature,
                want.divergence,
                want.skew,
                feature=want.features.weight,
                prototype=want.prototypes.weight,
            ),
            teacher=pooled,
            augment=training.augment,
            guide=self.insight.learn(desk.memory, round, pool, pooled),
        )
        fit = desk.learner.fit(self.phase(round, COORDINATOR, "distil", stream))
        self._take_stock(desk)
        return fit

    def measures(self, desk: Desk) -> dict[str, float]:
        want, memory = self.settings.pate, desk.memory
        if "readout" in memory:
            return {"readout/accepted": float(memory["readout"][0])}
        if want is None or "gnmax" not in memory:
            return {}
        return {
            "privacy/epsilon": epsilon_of(memory["gnmax"], want.delta),
            "privacy/answered": float(memory["answered"][0]),
        }

    def _votes(self, round: int, agenda: Agenda, want: GNMaxSettings) -> GNMaxPool:
        config = self.world.config
        sigma = want.sigma(config.rounds * len(self.samples(round)))
        return GNMaxPool(
            agenda.samples, self.world.interface.classes, agenda.levels, want, sigma,
            config.participants.count, seed=self.world.seed, round=round, contender=self.contender,
        )  # fmt: skip

    # The round's plan -----------------------------------------------------------------------------

    def _levels(self, round: int) -> int:
        """Levels of a round, as far as everybody knows them; with DAdaQuant the most there can be, but
        for the first round."""
        levels = self.settings.levels
        if isinstance(levels, tuple):
            return schedules.geometric(*levels, round, self.world.config.rounds)
        if levels == "dadaquant":
            return self.settings.dadaquant.cap if round > 1 else self._dadaquant([])
        return levels

    def _dadaquant(self, losses: Sequence[float]) -> int:
        by = self.settings.dadaquant
        return schedules.dadaquant(losses, by.first, by.cap, by.psi, by.phi)

    def _agenda(self, desk: Desk, round: int) -> Agenda:
        """What the coordinator asks for in a round, from what it remembers of those before."""
        want, memory = self.settings, desk.memory
        samples, losses = self.samples(round), memory.get("validation", np.zeros(0)).tolist()
        if "disagreement" in memory:
            progress = (round - 2) / max(1, self.world.config.rounds - 2)
            rng = generator(self.world.seed, round, "curriculum")
            samples = schedules.curriculum(memory["disagreement"], len(samples), progress, rng)
        levels = self._dadaquant(losses) if want.levels == "dadaquant" else self._levels(round)
        adaptive = want.frequency == "adaptive"
        sends = not adaptive or schedules.sends(losses, want.tolerance, want.longest_interval)
        return Agenda(samples, levels, sends)

    def _learn_order(self, desk: Desk, pool: AnswerPool) -> None:
        """Remember how far participants were apart, for the curriculum."""
        if pool.disagreement is None:
            return
        samples, nats = pool.disagreement.result()
        asked = desk.learner.asked(desk.public.proxy, samples)
        if asked is not None:  # on padding all agree: the mean over positions without it
            nats = nats * self.world.positions / np.maximum(1, asked.reshape(len(samples), -1).sum(1))
        known = desk.memory.get("disagreement", np.full(self.world.proxy_size, np.nan)).copy()
        known[samples] = nats
        desk.memory["disagreement"] = known

    def _take_stock(self, desk: Desk) -> None:
        """Remember how the student does on the validation split, where a later round depends on it."""
        want = self.settings
        if want.levels == "dadaquant" or want.frequency == "adaptive":
            validation = desk.public.validation
            loss = desk.learner.claims(validation, np.arange(len(validation))).mean(dtype=np.float64)
            desk.memory["validation"] = np.append(desk.memory.get("validation", np.zeros(0)), loss)
        if want.personal:
            before, now = desk.memory.get("need"), self._losses(desk)
            desk.memory["need"] = now if before is None else 0.5 * (before + now)

    # Weights --------------------------------------------------------------------------------------

    @property
    def _groups(self) -> int:
        return len(self.world.interface.group_names)

    @property
    def _claiming(self) -> str:
        """What claims are made of; `uniform` where nobody asks for any."""
        want = self.settings
        answered = want.weights != "loss" or self.world.proxy_labelled
        return want.weights if want.confidence and answered else "uniform"

    def _assess(self, learner: Learner, own: Examples, public: Public) -> Assessment:
        """What somebody is to say of itself in this method."""
        from fedsim.learning import confidence

        skills = self.settings.personal > 0
        return confidence.assess(self._claiming, learner, own, public, self.world.interface, skills=skills)

    def _losses(self, desk: Desk) -> np.ndarray:
        from fedsim.learning import confidence

        return confidence.losses_by_group(desk.learner, desk.public.validation, self.world.interface)

    def _weighing(self, desk: Desk, round: int, samples: np.ndarray) -> Weighing:
        """A round's weights, measured against the student's own claims."""
        want, reference, scale, need = self.settings, None, 1.0, None
        if self._claiming != "uniform":
            judge = self._assess(desk.learner, desk.public.proxy, desk.public).judge
            assert judge is not None
            reference = desk.learner.claims(desk.public.proxy, samples, judge)
            if want.weights == "density":
                scale = float(reference.std()) or 1.0
        if want.personal:
            need = desk.memory.get("need")
            need = self._losses(desk) if need is None else need
        asked = len(events.asked(self.world.config, round))
        bound = REACH if want.max_share is None else reach(want.max_share, asked)
        return Weighing(want.confidence, reference, scale, want.personal, need, bound)

    def _express(
        self, who: Site | Desk, round: int, sender: int, agenda: Agenda, judge: Judge | None = None
    ) -> Responses:
        want, feedback = self.settings, None
        if want.feedback:
            shape = self.world.proxy_size, self.world.positions, self.world.interface.classes
            feedback = Feedback(who.memory, *shape)
        return who.learner.express(
            who.public.proxy,
            agenda.samples,
            levels=agenda.levels,
            quantiser=want.quantiser,
            key=self.key(round, sender, "express"),
            judge=judge,
            top=want.top if want.quantiser in TAILED else None,
            feedback=feedback,
            views=want.views,
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
