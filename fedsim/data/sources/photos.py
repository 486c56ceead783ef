"""Patches of the two photographs that come with scikit-learn: natural images, no download.

Meant as a public set that is unlike private images: no patch shows what a classifier would be asked for.
Patches don't overlap, and each covers twice as many pixels a side as it has.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.raw import Raw, draw_evenly, from_pixels

NAMES, SIDE = ("china", "flower"), 8


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """pixels: [N, 3, S, S] uint8; S is `data.image_size` (8). With 8 pixels there are 2,080 patches."""
    side = data.image_size or SIDE
    pictures = [_patches(name, side) for name in NAMES]
    groups = np.repeat(np.arange(len(NAMES)), [len(patches) for patches in pictures])
    index = draw_evenly(groups, data.max_examples, rng)
    return from_pixels(
        np.concatenate(pictures)[index],
        groups[index],
        NAMES,
        description=f"patches of two photographs, {side}×{side} pixels",
        origin="china.jpg (danielbuechele) and flower.jpg (vultilion) as in scikit-learn, CC BY 2.0",
    )


def _patches(name: str, side: int) -> np.ndarray:
    """[N, 3, side, side] uint8, row by row; what is left at the edges is dropped."""
    from PIL import Image

    package = find_spec("sklearn")
    assert package is not None and package.origin is not None
    with Image.open(Path(package.origin).parent / "datasets" / "images" / f"{name}.jpg") as picture:
        half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    rows, columns = half.height // side, half.width // side
    pixels = np.asarray(half)[: rows * side, : columns * side]
    return pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
