"""What opening a round may not do: the round before may still have to be scored and saved."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedsim.coordinator import Coordinator


@contextmanager
def opening(coordinator: Coordinator) -> Iterator[None]:
    """Around `open`: fails where it changes the student, or what was remembered before."""
    desk = coordinator._desk
    weights = desk.learner.weights()
    held = [(array, array.tobytes()) for array in desk.memory.values()]
    yield
    assert all(torch.equal(now, weights[name]) for name, now in desk.learner.weights().items())
    assert all(array.tobytes() == bits for array, bits in held)  # some hold NaN
