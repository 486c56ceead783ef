"""FedAvg where it must be something simpler: a step on everybody's loss, centralised training, FedProx."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

PLAIN = {
    "optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 0.0, "warmup": 0, "schedule": "constant",
    "augment": False, "gradient_clip": None,
}  # fmt: skip
"""w ← w − η ∇L, and nothing else."""
FEDAVG = {"name": "fedavg", "specialists": "student"}


def whole_batches(play, method, **overrides):
    """Every step on all examples of a participant: a batch that is a multiple of every shard's size."""
    sizes = [len(shard.train) for shard in play(method, **overrides).shards.values()]
    training = {**PLAIN, "steps": 1, "batch_size": math.lcm(*sizes)}
    both = {"participants.training": training, "student.training": training}
    return play(method, **{**overrides, **both}), sizes


def gradient_step(model, vector: np.ndarray, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One step of gradient descent on a mean loss, in plain torch and double precision."""
    model = model.double()
    parameters = list(model.parameters())
    torch.nn.utils.vector_to_parameters(torch.from_numpy(vector).double(), parameters)
    logits = model(pixel_values=torch.from_numpy(images).double() / 127.5 - 1).logits
    F.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
    moved = [p.detach() - PLAIN["learning_rate"] * p.grad for p in parameters]
    return torch.cat([p.flatten() for p in moved]).numpy()


def test_with_one_step_on_whole_shards_it_is_a_step_on_everybodys_loss(play):
    small = {"participants.models": ["mlp"], "student.model": "mlp"}
    made, sizes = whole_batches(play, FEDAVG, **small)
    assert len(set(sizes)) > 1  # equal shards would hide a missing weight
    start = made.site().learner.parameters().vector
    everything = [shard.train.arrays for shard in made.shards.values()]
    images, labels = (np.concatenate([a[c] for a in everything]) for c in ("pixel_values", "labels"))
    expected = gradient_step(made.site().learner.engine.model, start, images, labels)
    made.round(1)
    assert np.abs(expected - start).max() > 0.01
    np.testing.assert_allclose(made.weights(), expected, rtol=0, atol=1e-6)


def test_one_participant_is_centralised_training(play):
    one = {"participants.count": 1}
    federated, _ = whole_batches(play, FEDAVG, **one)
    central, _ = whole_batches(play, {"name": "centralized"}, **one)
    assert not federated.world.proxy_labelled  # centralised training would have the proxy set besides
    start = federated.weights()
    for number in (1, 2, 3):
        federated.round(number)
        central.round(number, who=[])
        # The same examples in another order: sums of floats differ in their last bits.
        np.testing.assert_allclose(federated.weights(), central.weights(), rtol=0, atol=2e-6)
    assert np.abs(federated.weights() - start).max() > 0.01


@pytest.mark.parametrize("mu", [0, 10.0])
def test_fedprox_at_zero_is_fedavg_bit_for_bit_over_rounds(play, mu: float):
    plain, held = play(FEDAVG), play({"name": "fedprox", "specialists": "student", "mu": mu})
    for number in (1, 2):
        ends = [made.round(number) for made in (plain, held)]
        assert (plain.down, plain.up) == (held.down, held.up) or mu
        assert np.array_equal(plain.weights(), held.weights()) == (mu == 0)
        assert (ends[0].score, ends[0].loss) == (ends[1].score, ends[1].loss) or mu
