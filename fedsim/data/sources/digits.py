"""scikit-learn's handwritten digits: 1,797 real images of 8×8 pixels, ten classes, no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.images import resize
from fedsim.data.sources.raw import Raw, draw_evenly, from_pixels


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """pixels: [N, 1, 8, 8] uint8 (0 … 255), larger where `data.image_size` asks for it."""
    table = _read()
    labels = table[:, -1].astype(np.int64)
    index = draw_evenly(labels, data.max_examples, rng)
    # The file counts ink from 0 to 16.
    pixels = np.rint(table[index, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_pixels(
        resize(pixels, data.image_size),
        labels[index],
        [str(digit) for digit in range(10)],
        description="scikit-learn's handwritten digits, 8×8 pixels",
        origin="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), UCI, CC BY 4.0",
    )


def _read() -> np.ndarray:
    """[1797, 65] float64: 64 pixels and the digit. Importing scikit-learn for it would take seconds."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    return np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
