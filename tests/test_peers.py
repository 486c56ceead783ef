"""What other frameworks are given to do in the benchmarks is what ours does."""

import pytest

from benchmarks import peers, rounds
from fedsim.models.factory import build
from fedsim.types import Interface

IMAGES = {name: work for name, work in rounds.WORKLOADS.items() if not work.text}


@pytest.mark.parametrize("name", IMAGES)
def test_the_network_is_the_same(name: str):
    work = IMAGES[name]
    interface = Interface("image", 10, 0, (1, work.side, work.side))
    ours = [(tuple(p.shape), p.numel()) for p in build(work.model, interface, 0).parameters()]
    theirs = [(tuple(p.shape), p.numel()) for p in peers.job(work).network().parameters()]
    assert theirs == ours


def test_the_shards_are_as_large():
    inputs, answers = peers.job(rounds.WORKLOADS["mlp 100 × 51k"]).shard(3)
    assert inputs.shape == (rounds.PER_PARTICIPANT, 1, 28, 28) and len(answers) == rounds.PER_PARTICIPANT
