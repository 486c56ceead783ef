"""What every process of a run knows: the config, the shapes, and how to build a learner from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedsim.config import Adapter, MethodConfig, RunConfig, Training
from fedsim.seeding import torch_seed
from fedsim.types import METRICS, Interface, Metric

if TYPE_CHECKING:  # torch is imported only in processes that compute
    from torch import nn

    from fedsim.learning.specialist import Specialist
    from fedsim.learning.student import Student
    from fedsim.learning.training import HeadSpec
    from fedsim.modalities.base import Modality


@dataclass(frozen=True)
class World:
    """Frozen facts of one run.

    proxy_size: samples in the proxy set.   positions: predictions per sample.
    proxy_labelled: whether the proxy set can be learnt from by itself (text always can).
    sizes: private training examples of each participant.   plugins: path → text, see `plugins`.
    adapter: what the student trains in place of all its weights, where the method in hand makes it of the
        participants' adapters.
    tokenizer: text, the text of its `tokenizer.json`.
    exams: path → text of what the student is asked at the end, see `exams`.
    """

    config: RunConfig
    interface: Interface
    proxy_size: int
    positions: int
    proxy_labelled: bool
    sizes: tuple[int, ...]
    plugins: Mapping[str, str] = field(default_factory=dict)
    adapter: Adapter | None = None
    tokenizer: str | None = None
    exams: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def metric(self) -> Metric:
        return METRICS[self.interface.modality]

    def contender(self, name: str) -> MethodConfig:
        return self._contenders[name]

    @cached_property
    def _contenders(self) -> dict[str, MethodConfig]:
        return {entry.contender: entry for entry in self.config.methods}

    def model_of(self, contender: str, participant: int) -> str:
        """Which architecture a participant trains for a contender."""
        if self.contender(contender).specialists == "student":
            return self.config.student.model
        models = self.config.participants.models
        return models[participant % len(models)]

    def size_of(self, model: str) -> int:
        """How many parameters a model has, without adapters."""
        from fedsim.models.factory import size_of

        return size_of(model, self.interface)

    def architectures(self) -> tuple[str, ...]:
        """Every architecture of the run, the student's first."""
        used = [self.config.student.model]
        for method in self.config.methods:
            used += [self.model_of(method.contender, k) for k in range(self.config.participants.count)]
        return tuple(dict.fromkeys(used))

    def specialist(
        self, model: str, start: np.ndarray | None, training: Training, adapter: Adapter | None = None
    ) -> Specialist:
        """A participant's learner: plain torch on its own device, from the public start."""
        import torch

        from fedsim.learning.specialist import Specialist
        from fedsim.student.engine import TorchEngine

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        engine = TorchEngine(self._model(model, start, adapter), training, device)
        learner = Specialist(engine, self._modality(), self.interface.classes)
        if start is not None and adapter is None:
            learner.load_parameters(start)
        return learner

    def student(self, start: np.ndarray | None, heads: HeadSpec | None = None) -> Student:
        """The coordinator's learner: DeepSpeed; the process must have joined its ranks.

        heads: what it has while it learns, beside the model.
        """
        import torch

        from fedsim.learning.student import Student
        from fedsim.models.heads import attach
        from fedsim.student.deepspeed import DeepSpeedEngine
        from fedsim.student.engine import unflatten

        settings = self.config.student
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, modality = self._model(settings.model, start, self.adapter), self._modality()
        if start is not None and self.adapter is None:
            unflatten(start, list(model.parameters()))
        if heads is not None:
            attach(model, heads, modality.pooled, torch_seed(self.seed, "heads"))
        engine = DeepSpeedEngine(model, settings.training, settings.engine, device)
        return Student(engine, modality, self.interface.classes)

    def _modality(self) -> Modality:
        from fedsim.modalities import modality

        return modality(self.interface.modality, self.interface.prompts)

    def _model(self, name: str, start: np.ndarray | None, adapter: Adapter | None) -> nn.Module:
        """Fresh or pretrained; with an adapter the public start is in its frozen weights."""
        from fedsim.models.factory import build

        model = build(name, self.interface, self.seed)
        if adapter is None:
            return model
        from fedsim.models.adapters import adapted
        from fedsim.student.engine import unflatten

        if start is not None:
            unflatten(start, list(model.parameters()))
        return adapted(model, adapter, torch_seed(self.seed, "adapter"))
