"""Images of ten made-up classes, as many as wanted: for measuring scale where no dataset is at hand.

An image is the smooth pattern of its class, moved by a smooth pattern of its own and by noise.
"""

from __future__ import annotations

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.raw import Raw, from_pixels

CLASSES, SIDE, NUMBER = 10, 28, 10_000


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """pixels: [N, 1, S, S] uint8; N is `data.max_examples` (10,000), S is `data.image_size` (28)."""
    number, side = data.max_examples or NUMBER, data.image_size or SIDE
    labels = rng.permutation(np.arange(number) % CLASSES)
    patterns = _smooth(CLASSES, side, rng)
    pixels = np.empty((number, 1, side, side), np.uint8)
    for start in range(0, number, 4096):
        part = labels[start : start + 4096]
        noise = rng.standard_normal((len(part), side, side), np.float32)
        image = patterns[part] + _smooth(len(part), side, rng) + noise
        pixels[start : start + 4096, 0] = np.clip(128 + 32 * image, 0, 255)
    return from_pixels(
        pixels,
        labels,
        [str(k) for k in range(CLASSES)],
        description=f"synthetic images, {side}×{side} pixels",
        origin="made from the run's seed",
    )


def _smooth(number: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """[number, side, side] float32: random weights on the lowest 4 × 4 cosines, variance about 1."""
    waves = np.cos(np.pi * np.outer(np.arange(4), (np.arange(side) + 0.5) / side)).astype(np.float32)
    weights = rng.standard_normal((number, 4, 4), np.float32) / 2.5
    return np.asarray(np.einsum("nij,ix,jy->nxy", weights, waves, waves, optimize=True))
