"""Every draw comes from what it is for: the same purpose, the same numbers, in any process."""

import itertools
import os
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest

from fedsim.seeding import generator, torch_seed

KEYS = [
    (),
    (0,),
    (1,),
    (-1, "batches"),
    (0, 1),
    (1, 0),
    (0, 0),
    ("batches",),
    ("dropout",),
    (1, "batches"),
    ("batches", 1),
]


def draw(seed: int, *keys: int | str) -> tuple[int, ...]:
    return tuple(generator(seed, *keys).integers(2**63, size=4).tolist())


def test_the_same_purpose_gives_the_same_stream():
    assert draw(3, 1, 2, "batches") == draw(3, 1, 2, "batches")
    assert torch_seed(3, 1, "dropout") == torch_seed(3, 1, "dropout")


def test_any_other_purpose_gives_another_stream():
    purposes = list(itertools.product((0, 1), KEYS))
    assert len({draw(seed, *keys) for seed, keys in purposes}) == len(purposes)
    assert len({torch_seed(seed, *keys) for seed, keys in purposes}) == len(purposes)


def test_asking_twice_does_not_move_a_stream():
    first = generator(0, "a")
    first.random(1000)
    assert generator(0, "a").random() != first.random()
    np.random.default_rng(0).random()
    assert draw(0, "a") == draw(0, "a")


def test_the_streams_are_the_same_in_another_process():
    # `hash` of a text is not: it is salted per process.
    code = "from fedsim.seeding import generator; print(generator(5, 2, 'batches').integers(2**63))"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert said[0] == said[1] == f"{generator(5, 2, 'batches').integers(2**63)}\n"


def test_a_torch_seed_fits_torch():
    assert all(0 <= torch_seed(0, k) < 2**63 for k in range(200))


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**40 + 3])
def test_a_stream_is_numpys_of_the_seed_and_the_keys(seed: int):
    stream = np.random.default_rng([seed, 3, 0, crc32(b"batches")])
    assert draw(seed, 2, -1, "batches") == tuple(stream.integers(2**63, size=4).tolist())


def test_the_coordinator_is_the_smallest_key():
    with pytest.raises(ValueError, match="non-negative"):
        generator(0, -2)
