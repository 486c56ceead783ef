"""A model that learns as well as answers: what participants and the coordinator both hold.

Everything here works on rows of predictions (see `modalities`), so it is the same for text and
images. The engine below decides how a step is made (plain torch, or DeepSpeed on one or many ranks).

Legend: R rows, K classes, n examples, p rows per example.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedsim.aggregation.responses import of_samples
from fedsim.disk import storage
from fedsim.disk.storage import AnyPath
from fedsim.errors import DivergedError
from fedsim.learning import dpsgd, losses, policy_gradient
from fedsim.learning.answering import Answering, seeded
from fedsim.learning.guidance import guided_terms, prototype_term, pulls
from fedsim.learning.training import Fit, Phase, Stream
from fedsim.modalities.base import UNASKED, Modality
from fedsim.models.flops import training_factor
from fedsim.models.heads import Heads
from fedsim.models.taps import LAST, tapped
from fedsim.seeding import generator, torch_seed
from fedsim.student.engine import Engine, State
from fedsim.types import Parameters


class Learner(Answering):
    """One model with its optimiser.   private_steps: how often it has drawn from private examples."""

    def __init__(self, engine: Engine, modality: Modality, classes: int) -> None:
        super().__init__(engine, modality, classes)
        self.private_steps = 0

    def fit(self, phase: Phase) -> Fit:
        """Run one phase; on several ranks each takes its share of every batch.

        Raises DivergedError where the loss left the finite numbers.
        """
        streams, steps = [s for s in phase.streams if len(s.examples)], phase.training.steps
        if not streams or not steps:
            return Fit(float("nan"), {}, 0)
        key = seeded(phase.key)
        if self._draws:
            _seed_torch(torch_seed(*key, "dropout"))
        batches = [s.batches(steps, generator(*key, k)) for k, s in enumerate(streams)]
        hidden = [(k, s.mechanism) for k, s in enumerate(streams) if s.mechanism is not None]
        noises = {k: generator(*key, mechanism.of, k, "noise") for k, mechanism in hidden}
        self.private_steps += steps * len(hidden)
        variation = generator(*key, "augmentation") if any(s.augment for s in streams) else None
        self._set_mean_domain(streams)
        anchors = [p.detach().clone() for p in self._trainable()] if phase.proximal else []
        if not self.engine.model.training:  # walking over the modules costs as much as a small step
            self.engine.model.train()
        sums: dict[str, float] = defaultdict(float)
        for step in range(steps):
            terms: dict[str, Tensor] = {}
            for k, (stream, of_stream) in enumerate(zip(streams, batches, strict=True)):
                if stream.mechanism is None:
                    found = self._terms(stream, of_stream[step], variation)
                else:
                    found = {"task": self._learn_privately(stream, of_stream[step], variation, noises[k])}
                for name, term in found.items():
                    terms[name] = terms[name] + term if name in terms else term
            if anchors:
                terms["proximal"] = phase.proximal * losses.proximal(self._trainable(), anchors)
            several = list(terms.values())
            loss = torch.stack(several).sum() if len(several) > 1 else several[0]
            self.engine.step(loss, phase.learning_rate(step))
            sums["loss"] += loss.item()
            if len(several) > 1:
                for name, term in terms.items():
                    sums[name] += term.item()
        for stream, of_stream in zip(streams, batches, strict=True):
            passes, calls, want = sum(map(len, of_stream)), steps, stream.objective
            if stream.mechanism is not None:  # each example is a pass of its own
                calls, want = passes, dpsgd.BOTH
            self._count(stream.examples, passes, calls, want, self._training_factor)
        means = {name: total / steps for name, total in sums.items()}
        if len(means) == 1:
            means[name] = means["loss"]  # the only term is the loss
        if not math.isfinite(means["loss"]):
            raise DivergedError(f"the training loss is {means['loss']}; a smaller learning rate may help")
        return Fit(means.pop("loss"), means, steps)

    def _terms(
        self, stream: Stream, batch: np.ndarray, variation: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """The weighted terms of a stream's objective on this rank's share of a batch."""
        want = stream.objective
        inputs = self.modality.inputs(stream.examples, batch, self.engine.device)
        if stream.augment and variation is not None:
            # The whole batch, so that an example is varied alike on any number of ranks.
            inputs = self.modality.augment(inputs, variation)
        if self.engine.world > 1:
            share = slice(self.engine.rank, None, self.engine.world)
            inputs, batch = {name: column[share] for name, column in inputs.items()}, batch[share]
        if self.heads is not None and stream.guide is not None and stream.guide.domains is not None:
            self.heads.domains = torch.from_numpy(stream.guide.domains[batch]).to(self.engine.device)
        content = self.modality.content(stream.examples, batch, self.engine.device)
        if self.heads is not None:
            self.heads.content = content
        tap: AbstractContextManager[list[Tensor]] = nullcontext([])
        if pulled := self.heads is None and pulls(stream):
            tap = tapped(self.engine.model, LAST)
        with tap as states:
            logits = self.modality.logits(self.engine.forward(**self.modality.asked(inputs, want)))
        logits_RK = self.modality.rows(logits).float()
        terms: dict[str, Tensor] = {}
        if pulled:
            terms = {"prototype": prototype_term(self.modality.pooled(states[0], content), stream, batch)}
        if self.heads is not None:
            terms = guided_terms(self.heads, stream, batch)
            self.heads.domains = self.heads.content = None
        if want.response and stream.teacher is not None:
            teacher_RK = torch.from_numpy(of_samples(stream.teacher, batch)).to(logits_RK.device)
            wanted = self.modality.wanted(stream.examples, batch, self.engine.device)
            told_RK = logits_RK
            if wanted is not None:
                told_RK, teacher_RK = logits_RK[wanted], teacher_RK[wanted]
            apart = losses.divergence(told_RK, teacher_RK, want.divergence, want.temperature, want.skew)
            terms["response"] = losses.weighted(stream.weight * want.response, apart)
        if want.task:
            task = self.modality.task_loss(logits, logits_RK, stream.examples, batch, self.engine.device)
            if task is not None:
                terms["task"] = losses.weighted(stream.weight * want.task, task)
        if stream.lesson is not None:
            answers = self._known(stream.examples, batch)
            asked = answers != UNASKED
            of_lesson = policy_gradient.lesson_terms(logits_RK[asked], answers[asked], stream.lesson, batch)
            terms |= {name: losses.weighted(stream.weight, term) for name, term in of_lesson.items()}
        if not terms:
            raise ValueError("a stream has neither a teacher nor answers to learn from")
        return terms

    def _learn_privately(
        self,
        stream: Stream,
        batch: np.ndarray,
        variation: np.random.Generator | None,
        noise: np.random.Generator,
    ) -> Tensor:
        """The loss on private examples, whose noisy gradient is added to the parameters' at once."""
        if self.engine.world > 1:
            raise ValueError("private examples are learnt on one rank")
        engine = self.engine
        return dpsgd.learn(engine.model, self.modality, stream, batch, engine.device, variation, noise)

    # Weights --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of parameters, P."""
        return self.engine.size

    def weights(self) -> State:
        """The full weights by parameter name, on the CPU."""
        return self.engine.weights()

    def parameters(self, examples: int = 0) -> Parameters:
        """All trainable weights as one vector, with how many examples stand behind them."""
        return Parameters((self.engine.vector(),), examples)

    def load_parameters(self, vector: np.ndarray) -> None:
        """Set the weights from a vector [P]; the optimiser's moments stay."""
        self.engine.load_vector(vector)

    def save(self, folder: AnyPath) -> None:
        """Weights and optimiser, to go on bit for bit."""
        with storage.saving(folder) as local:
            self.engine.save(local)

    def load(self, folder: AnyPath) -> None:
        """Take up what `save` wrote."""
        with storage.loading(folder) as local:
            self.engine.load(local)

    def release(self) -> None:
        """Let go of the model and its optimiser."""
        self.engine.close()

    # Heads ----------------------------------------------------------------------------------------

    @cached_property
    def heads(self) -> Heads | None:
        """What the model learns with, where a method asked for it."""
        return getattr(self.engine.model, "heads", None)

    def _set_mean_domain(self, streams: list[Stream]) -> None:
        """From now on the model answers for the mean of the domains that it is taught."""
        domains = [s.guide.domains for s in streams if s.guide is not None and s.guide.domains is not None]
        if domains and self.heads is not None and self.heads.scale is not None:
            self.engine.assign(self.heads.scale.mean, domains[0].mean(axis=0))

    # Helpers --------------------------------------------------------------------------------------

    @cached_property
    def _training_factor(self) -> float:
        return training_factor(self.engine.model)

    @cached_property
    def _draws(self) -> bool:
        """Whether the model may draw random numbers: to seed them is a twentieth of a small model's round."""
        return getattr(self.engine.model, "draws", True)

    def _trainable(self) -> list[Tensor]:
        return [p for p in self.engine.model.parameters() if p.requires_grad]


def _seed_torch(seed: int) -> None:
    """As torch.manual_seed, which where CUDA is not in use spends 0.3 ms on noting down its caller."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
