"""scikit-learn's handwritten digits: 1,797 real images of 8×8 pixels, ten classes, no download."""

from __future__ import annotations

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.images import resize
from fedsim.data.sources.raw import Raw, draw_evenly, from_pixels


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """pixels: [N, 1, 8, 8] uint8 (0 … 255), larger where `data.image_size` asks for it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    index = draw_evenly(labels, data.max_examples, rng)
    # The files count ink from 0 to 16.
    pixels = np.rint(np.asarray(bunch.images)[index, None] * (255 / 16)).astype(np.uint8)
    return from_pixels(
        resize(pixels, data.image_size),
        labels[index],
        [str(digit) for digit in range(10)],
        description="scikit-learn's handwritten digits, 8×8 pixels",
        origin="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), UCI, CC BY 4.0",
    )
