"""The student's other ranks: actors that mirror every call of rank 0's learner.

DeepSpeed is one program on many ranks. Rank 0 lives in the coordinator; what it asks of its learner
(fit, express, evaluate, save …) is asked of all, so that each takes its part of the collectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from fedsim.errors import CoordinatorLostError, FedsimError
from fedsim.runtime import enter_directory
from fedsim.shortage import first_line
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


PATIENCE_S = 10.0
"""How long Ray may take to learn that a rank died after its connection broke."""


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
            with _in_step([peer.call.remote(name, shared) for peer in self._peers]):
                return value(*args, **kwargs)

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
        with _in_step([peer.build.remote(world, start, heads) for peer in peers]):
            learner = SpreadLearner(world.student(start, heads), peers)
        return cast("Student", learner)

    return student


@contextmanager
def _in_step(others: list[Any]) -> Iterator[None]:
    """Do something while other ranks do it as well, and wait for them.

    Raises CoordinatorLostError where it failed because one of them died: what is then raised here, and by
    those who live, is only that a connection broke.
    """
    try:
        yield
    except FedsimError:
        raise
    except Exception as error:
        ended, _ = ray.wait(others, num_returns=len(others), timeout=PATIENCE_S)
        for other in ended:
            try:
                ray.get(other)
            except RayActorError as death:
                raise CoordinatorLostError(f"a rank died ({first_line(death)})") from error
            except RayTaskError:
                pass
        raise
    ray.get(others)
