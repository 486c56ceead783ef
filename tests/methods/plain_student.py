"""A coordinator's student in plain torch, for tests that start neither actors nor DeepSpeed."""

import numpy as np
import torch

from fedsim.learning.student import Student
from fedsim.learning.training import HeadSpec
from fedsim.models.heads import attach
from fedsim.student.engine import TorchEngine
from fedsim.world import World


def plain_student(world: World, start: np.ndarray | None, heads: HeadSpec | None) -> Student:
    """As World.student."""
    training = world.config.student.training
    learner = world.specialist(world.config.student.model, start, training)
    if heads is not None:
        attach(learner.engine.model, heads, learner.modality.pooled, 0)
        learner.engine = TorchEngine(learner.engine.model, training, torch.device("cpu"))
    return Student(learner.engine, learner.modality, learner.classes)
