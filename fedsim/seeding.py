"""One source of randomness: every draw comes from a generator derived from what it is for.

`generator(seed, round, participant, "batches")` is the same stream in whatever process, order or
attempt it is asked for; this is what makes a run identical over actor counts, crashes and resumes.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np


def sequence(seed: int, *keys: int | str) -> np.random.SeedSequence:
    """The seed sequence of a purpose; text keys enter by their CRC-32 (stable, unlike `hash`)."""
    words = [seed, *(crc32(k.encode()) if isinstance(k, str) else k + 1 for k in keys)]
    small = min(words) >= 0 and max(words) < 2**32
    # An array makes the same sequence in half the time; numpy says what is wrong with a list.
    return np.random.SeedSequence(np.array(words, np.uint32) if small else words)


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A numpy generator for one purpose; integer keys are ≥ −1 (−1 is the coordinator)."""
    return np.random.Generator(np.random.PCG64(sequence(seed, *keys)))


def torch_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for `torch.manual_seed`, for the same purpose."""
    return int(sequence(seed, *keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
