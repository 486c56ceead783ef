"""The empirical bound: what our mechanism releases can't be told apart better than its ε allows, and that
of a broken one can.

The worst case: the data is one example or nothing, and the attacker knows its gradient.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedsim import privacy
from fedsim.attacks import metrics
from fedsim.config import Privacy
from fedsim.learning.dpsgd import private_gradient
from fedsim.learning.training import Mechanism
from fedsim.modalities import modality
from fedsim.models.factory import build
from fedsim.seeding import generator
from fedsim.types import Interface

SIGMA, CLIP, TRIALS = 3.0, 0.5, 250
ASKED = Privacy(noise=SIGMA, accountant="prv")
IMAGE = Interface("image", classes=3, window=0, image_shape=(1, 4, 4))


def scores(how: Mechanism, present: bool, seed: int) -> np.ndarray:
    """Of many releases the part along the example's gradient, in units of the clip."""
    model, reads = build("mlp", IMAGE, 0), modality("image")
    inputs, targets = {"pixel_values": torch.ones(1, 1, 4, 4)}, torch.tensor([[1]])
    nothing = {"pixel_values": torch.ones(0, 1, 4, 4)}, torch.zeros(0, 1, dtype=torch.long)

    def release(data, mechanism: Mechanism, rng: np.random.Generator) -> torch.Tensor:
        found, _ = private_gradient(model, reads, *data, mechanism, 1.0, rng)
        return torch.cat([g.flatten() for g in found.values()])

    exact = release((inputs, targets), Mechanism(clip=1e9, noise=0.0), np.random.default_rng(0))
    assert exact.norm() > CLIP
    along = exact / exact.norm() / CLIP
    data = (inputs, targets) if present else nothing
    draws = (generator(seed, trial, "audit") for trial in range(TRIALS))
    return np.array([float(release(data, how, rng) @ along) for rng in draws])


def refuted(how: Mechanism) -> bool:
    """At the threshold halfway between the clip and nothing, whatever the releases are."""
    epsilon = privacy.spent(ASKED, SIGMA, 1.0, 1)
    found = scores(how, True, 1), scores(how, False, 2)
    return metrics.refutes(*found, 0.5, epsilon, ASKED.delta)


def test_the_mechanism_keeps_to_its_bound():
    assert not refuted(Mechanism(CLIP, SIGMA))


BROKEN: dict[str, Callable[[], Mechanism]] = {
    "too little noise": lambda: Mechanism(CLIP, SIGMA / 8),
    "no clipping": lambda: Mechanism(100 * CLIP, SIGMA / 100),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_mechanism_does_not(how: str):
    assert refuted(BROKEN[how]())
