"""Standard distillation from one large teacher: a control with central data.

Hinton, Vinyals, Dean; 2015; arXiv 1503.02531.

    teach    one teacher, usually larger than the student, is trained on everybody's data in one place
    distil   the student learns T² KL(p_T(x) ‖ q_T(x)) + task · cross-entropy on the proxy set

The student hears of the private data by the same road as in federated distillation, the answers on the
proxy set; what lies between the two is the price of having no teacher that saw everything. Nothing is sent.

Deviation: the teacher's answers are those on a grid of `levels`, given once, before the first round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim.aggregation.changes import keep, kept
from fedsim.aggregation.responses import as_pooled
from fedsim.config import MethodConfig, RunConfig, Settings
from fedsim.learning.training import Fit, Objective, Phase, Stream
from fedsim.methods.base import Desk, Pool
from fedsim.methods.centralized import Centralized
from fedsim.models import presets
from fedsim.types import COORDINATOR, Responses


class CentralDistillationSettings(Settings):
    teacher: str | None = None
    """A preset, or a path to a `config.json` or its folder; null: the student's own architecture."""
    teacher_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps of the teacher; null: as many as the student takes in all rounds."""
    levels: Annotated[int, Field(ge=1, le=65535)] = 255
    """Quanta a probability row is divided into."""
    quantiser: Literal["largest_remainder", "sample", "systematic"] = "largest_remainder"
    """See federated distillation."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """T, of teacher and student; the loss is multiplied by T²."""
    task: Annotated[float, Field(ge=0)] = 0.3
    """Weight of cross-entropy on the proxy set, where it is labelled (text: the next token)."""


class CentralDistillation(Centralized):
    Settings: ClassVar[type[Settings]] = CentralDistillationSettings
    settings: CentralDistillationSettings

    @classmethod
    def check(cls, config: RunConfig, entry: MethodConfig, where: str) -> None:
        for option, model in cls.models(entry).items():
            if config.data.reads is not None:
                presets.check(model, config.data.reads, f"{where}.{option}")

    @classmethod
    def models(cls, entry: MethodConfig) -> Mapping[str, str]:
        teacher = CentralDistillationSettings.model_validate(entry.options).teacher
        return {} if teacher is None else {"teacher": teacher}

    def coordinator_step(self, desk: Desk, round: int, pool: Pool | None) -> Fit | None:
        answers = kept(desk.memory, "teacher")
        if answers is None:
            answers = self._teach(desk)
            keep(desk.memory, "teacher", answers)
        training = self.world.config.student.training
        lesson = Stream(
            examples=desk.public.proxy,
            batch_size=training.batch_size,
            objective=Objective(1.0, self.settings.task, self.settings.temperature),
            teacher=as_pooled(answers),
            augment=training.augment,
        )
        return desk.learner.fit(self.phase(round, COORDINATOR, "distil", lesson))

    def _teach(self, desk: Desk) -> Responses:
        """What a teacher that learnt from everybody's data says of the proxy set."""
        student = self.world.config.student
        model = self.settings.teacher or student.model
        steps = self.settings.teacher_steps or self.world.config.rounds * student.training.steps
        training = student.training.model_copy(update={"steps": steps})
        teacher = self.world.specialist(model, desk.starts.get(model), training)
        everything = self.labelled(self._examples(desk), COORDINATOR)
        teacher.fit(Phase((everything,), training, 1, 1, self.key(0, COORDINATOR, "teacher")))
        answers = teacher.express(
            desk.public.proxy,
            np.arange(len(desk.public.proxy)),
            levels=self.settings.levels,
            quantiser=self.settings.quantiser,
            key=self.key(0, COORDINATOR, "express"),
        )
        desk.learner.flops += teacher.flops
        return answers
