"""The student's other ranks: actors that mirror every call of rank 0's learner.

DeepSpeed is one program on many ranks. Rank 0 lives in the coordinator; what it asks of its learner
(fit, express, evaluate, save …) is asked of all, so that each takes its part of the collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray

from fedsim.runtime import enter_directory
from fedsim.world import World

if TYPE_CHECKING:  # it brings torch along, which the driver does without
    from fedsim.coordinator import BuildStudent
    from fedsim.learning.student import Student
    from fedsim.learning.training import HeadSpec

MIRRORED = frozenset(
    {
        "fit",
        "express",
        "hidden",
        "claims",
        "calibrate",
        "generate",
        "score_tokens",
        "token_rows",
        "draw_tokens",
        "evaluate",
        "marks",
        "similarities",
        "weights",
        "parameters",
        "load_parameters",
        "set_last_layer",
        "save",
        "load",
        "release",
    }
)
"""What every rank must do together; all else is read from rank 0."""


class RankActor:
    """Rank 1, 2, … of the student's training."""

    def __init__(self, threads: int, gpu: bool, modality: str, models: Sequence[str]) -> None:
        enter_directory()
        from fedsim.process import loading, set_up

        with loading():
            set_up(threads, gpu)
            from fedsim.models.factory import import_classes

            import_classes(models, modality)

    def join(self, rank: int, world: int, address: tuple[str, int]) -> None:
        from fedsim.student.deepspeed import join

        join(rank, world, *address)

    def build(self, world: World, start: np.ndarray | None, heads: HeadSpec | None) -> None:
        self._learner = world.student(start, heads)

    def call(self, name: str, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        args, kwargs = arguments
        # Only rank 0's answer is used: nothing large travels back.
        getattr(self._learner, name)(*args, **kwargs)


class SpreadLearner:
    """Rank 0's learner, with its peers in step."""

    def __init__(self, learner: Student, peers: list[Any]) -> None:
        self._learner, self._peers = learner, peers

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._learner, name)
        if name not in MIRRORED:
            return value

        def everywhere(*args: Any, **kwargs: Any) -> Any:
            # Put once for all peers: a phase brings its examples and teacher along.
            shared = ray.put((args, kwargs))
            others = [peer.call.remote(name, shared) for peer in self._peers]
            answer = value(*args, **kwargs)
            ray.get(others)
            return answer

        return everywhere

    @property
    def flops(self) -> float:
        return self._learner.flops

    @flops.setter
    def flops(self, value: float) -> None:
        self._learner.flops = value


def spread(peers: list[Any]) -> BuildStudent:
    """How the coordinator builds its student over these peers (none: rank 0 alone)."""
    if not peers:
        return World.student

    def student(world: World, start: np.ndarray | None, heads: HeadSpec | None) -> Student:
        building = [peer.build.remote(world, start, heads) for peer in peers]
        learner = SpreadLearner(world.student(start, heads), peers)
        ray.get(building)
        return cast("Student", learner)

    return student
