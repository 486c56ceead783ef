"""FedDF: Ensemble Distillation for Robust Model Fusion in Federated Learning.

Lin, Kong, Stich, Jaggi; NeurIPS 2020; arXiv 2006.07242.

    up       w_k after local training that starts at the weights of the own architecture
    start    w_g = Σ_{k in g} (n_k / n_g) w_k     FedAvg, for each architecture g
    distil   min KL(softmax(mean_k z_k(x)) ‖ softmax(z(x))) on the proxy set, z_k the logits of w_k
    down     what came of it

It sends weights, not answers: it saves rounds, its bytes per round are FedAvg's. The coordinator computes
the teachers' logits itself as their weights arrive, and holds one teacher at a time.

With several architectures ("heterogeneous", algorithm 3) every one has an average that is distilled from
all teachers. A student of an architecture that no participant has is distilled only.

As in the paper, distillation is judged on a labelled set, here the public validation split: of the average
and of what it passes through the best is kept. So where the teachers together are worse than the average of
their weights, as with very uneven data, it does no harm.

Deviations: the student's optimiser and budget in place of Adam with cosine decay for at most 10⁴ steps that
end when 10³ of them gained nothing; one message goes down to everybody, so with several architectures it
holds all of them and is that much larger; the moments of the student's optimiser go on from round to round,
those of the other architectures begin anew.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.aggregation.exact import FixedPointSum, Pooled
from fedsim.aggregation.responses import whole
from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.errors import ConfigError, MessageError
from fedsim.learning.training import Fit, Phase
from fedsim.methods.base import Desk, Method, Pool, Site
from fedsim.methods.fedavg import ParameterMean
from fedsim.methods.federated_distillation import proxy_slice
from fedsim.types import COORDINATOR, Examples, Knowledge, Parameters
from fedsim.wire.expectation import Expectation

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner
    from fedsim.learning.specialist import Specialist

_MOST_LOGITS = 2**27
"""Logits of one teacher that are held: every class of every row has one."""
_LARGEST_LOGIT = 2.0**18
"""What the exact sum of them can hold."""


class FedDFSettings(Settings):
    proxy_per_round: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the proxy set that is distilled on in a round."""
    checks: Annotated[int, Field(ge=0)] = 5
    """How often at most the student is scored on the validation split while it learns; the best is kept.
    0: the last is."""


class TeacherPool:
    """The mean weights of every architecture, and the mean logits of all teachers on the round's samples.

    Memory: one teacher, one set of weights per architecture, one set of logits, whoever sends.
    """

    def __init__(self, method: FedDF, desk: Desk, samples: np.ndarray) -> None:
        world = method.world
        self.samples = samples
        self.means = {kind: ParameterMean(world.size_of(kind), world.sizes) for kind in method.kinds}
        self.logits = FixedPointSum(len(samples) * world.positions * world.interface.classes)
        self._method, self._desk = method, desk
        self._kind = ""
        self._teacher: Specialist | None = None

    def add(self, participant: int, knowledge: Knowledge) -> None:
        assert isinstance(knowledge, Parameters)
        kind = self._method.world.model_of(self._method.contender, participant)
        logits = self._ask(kind, knowledge.vector)
        largest = float(np.abs(logits).max(initial=0))
        if not largest <= _LARGEST_LOGIT:  # NaN included
            raise MessageError("unexpected", f"weights whose largest logit is {largest:g}")
        self.means[kind].add(participant, knowledge)
        self.logits.add(logits, 1 / len(self._method.world.sizes), largest)

    def merge(self, other: TeacherPool) -> None:
        for kind, mean in self.means.items():
            mean.merge(other.means[kind])
        self.logits.merge(other.logits)

    def teacher(self) -> Pooled:
        """softmax(mean_k z_k), row by row."""
        world = self._method.world
        mean_RK = self.logits.mean().reshape(-1, world.interface.classes)
        mean_RK -= mean_RK.max(axis=1, keepdims=True)
        probs_RK = np.exp(mean_RK)
        return whole(self.samples, world.positions, probs_RK / probs_RK.sum(axis=1, keepdims=True))

    def _ask(self, kind: str, vector: np.ndarray) -> np.ndarray:
        """The logits of these weights, [R·K] float32."""
        if self._teacher is None or self._kind != kind:
            self._teacher = self._method.learner(kind)
            self._kind = kind
        self._teacher.load_parameters(vector)
        before = self._teacher.flops
        logits = self._teacher.logits(self._desk.public.proxy, self.samples).ravel()
        self._desk.learner.flops += self._teacher.flops - before
        return logits


class FedDF(Method):
    Settings: ClassVar[type[Settings]] = FedDFSettings
    settings: FedDFSettings
    keeps_specialists: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    pools_at_hosts: ClassVar[bool] = False

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        if config.participants.adapter is not None:
            raise ConfigError("participants.adapter", config.participants.adapter.kind, "null for feddf")
        settings = cls.Settings.model_validate(entry.options)
        assert isinstance(settings, FedDFSettings)
        if settings.checks and not config.data.split.validation:
            raise ConfigError(f"{where}.checks", settings.checks, "0: there is no labelled validation split")

    def check_sizes(self) -> None:
        asked = proxy_slice(self.world, 1, self.settings.proxy_per_round)
        logits = len(asked) * self.world.positions * self.world.interface.classes
        if logits > _MOST_LOGITS:
            raise ConfigError(
                f"{self.contender}.proxy_per_round",
                self.settings.proxy_per_round,
                f"at most {self.settings.proxy_per_round * _MOST_LOGITS / logits:.2g}: {logits:,} logits "
                "of a teacher take too much memory",
            )

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The participants' architectures, in the order in which their weights go down."""
        every = range(len(self.world.sizes))
        return tuple(dict.fromkeys(self.world.model_of(self.contender, k) for k in every))

    def learner(self, kind: str) -> Specialist:
        """A learner of an architecture beside the student's, trained as the student is."""
        return self.world.specialist(kind, None, self.world.config.student.training)

    def broadcast(self, desk: Desk, round: int) -> Knowledge | None:
        if round == 1:
            return None
        return Parameters(tuple(self._weights(desk, kind) for kind in self.kinds), 0)

    def participant_step(
        self, site: Site, round: int, received: Knowledge | None
    ) -> tuple[Knowledge | None, Fit | None]:
        if isinstance(received, Parameters):
            place = self.kinds.index(self.world.model_of(self.contender, site.participant))
            first = sum(map(self.world.size_of, self.kinds[:place]))
            site.learner.load_parameters(received.vector[first : first + site.learner.size])
        mine = self.labelled(site.shard.train, site.participant)
        fit = site.learner.fit(self.phase(round, site.participant, "local", mine))
        return site.learner.parameters_in_place(len(site.shard.train)), fit

    def expect(self, direction: str, round: int, sender: int, size: int) -> Expectation | None:
        if direction == "down":
            every = sum(map(self.world.size_of, self.kinds))
            return Expectation("parameters", direction, round, sender, size=every) if round > 1 else None
        own = self.world.size_of(self.world.model_of(self.contender, sender))
        return Expectation("parameters", direction, round, sender, size=own)

    def pool(self, desk: Desk, round: int) -> Pool | None:
        samples = proxy_slice(self.world, round, self.settings.proxy_per_round)
        return TeacherPool(self, desk, samples)

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        assert isinstance(pool, TeacherPool)
        student = self.world.config.student
        lesson = self.taught(desk.public, pool.teacher(), COORDINATOR)
        phase = self.phase(round, COORDINATOR, "distil", lesson)
        for kind in self.kinds:
            delivered = pool.means[kind].sum.weight > 0
            start = pool.means[kind].sum.mean() if delivered else self._weights(desk, kind)
            if kind == student.model:
                desk.learner.load_parameters(start)
                continue
            learner = self.learner(kind)
            learner.load_parameters(start)
            self._distil(learner, phase, desk.public.validation)
            desk.learner.flops += learner.flops
            desk.memory[kind] = learner.parameters().vector
        return self._distil(desk.learner, phase, desk.public.validation)

    def _distil(self, learner: Learner, phase: Phase, validation: Examples) -> Fit:
        """Run a phase in equal parts; the learner ends with the best weights that it had in between."""
        steps = phase.training.steps
        parts = next((n for n in range(min(self.settings.checks, steps), 0, -1) if steps % n == 0), 0)
        if not parts:
            return learner.fit(phase)

        def mark() -> tuple[float, float]:
            score, loss = learner.evaluate(validation)
            return (score if self.world.metric.higher_is_better else -score), -loss

        best, kept, fits = mark(), learner.parameters().vector, []
        training = phase.training.model_copy(update={"steps": steps // parts})
        for part in range(parts):  # the learning rate is that of the whole phase
            at = (phase.round - 1) * parts + part + 1
            piece = replace(phase, training=training, round=at, rounds=phase.rounds * parts)
            fits.append(learner.fit(replace(piece, key=(*phase.key, part))))
            if (found := mark()) > best:
                best, kept = found, learner.parameters().vector
        learner.load_parameters(kept)
        terms = {name: sum(fit.terms[name] for fit in fits) / parts for name in fits[0].terms}
        return Fit(sum(fit.loss for fit in fits) / parts, terms, steps)

    def _weights(self, desk: Desk, kind: str) -> np.ndarray:
        """Of an architecture, as the last round left them; before that the public start."""
        if kind == self.world.config.student.model:
            return desk.learner.parameters().vector
        if kind in desk.memory:
            return desk.memory[kind]
        start = desk.starts.get(kind)
        return self.learner(kind).parameters().vector if start is None else start
