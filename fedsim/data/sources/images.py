"""Encoded images → one array of pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""Grey of 16 bits, of which the higher eight are kept; Pillow would call all above 255 white."""


def decode(cells: Iterable[Any], size: int | None, column: str) -> np.ndarray:
    """Pixels [N, C, H, W] uint8 of N cells `{"bytes", "path"}`; C is 1 where all are grey, else 3.

    size: pixels a side after resizing, None for the images' own, which must then all be the same.
    Raises ConfigError for a cell that is no image, one of more than 16 bits a channel, and for images of
    different sizes.
    """
    from PIL import Image

    images: list[np.ndarray] = []
    for row, cell in enumerate(cells):
        try:
            content = cell["bytes"]
            with Image.open(cell["path"] if content is None else io.BytesIO(content)) as image:
                upright = _eight_bits(image)
        except (
            OSError, ValueError, TypeError, AttributeError, SyntaxError, Image.DecompressionBombError
        ) as error:  # fmt: skip
            raise ConfigError("data.image_column", column, f"images (row {row}: {error})") from None
        if size is not None and upright.size != (size, size):
            upright = upright.resize((size, size), Image.Resampling.BICUBIC)
        images.append(np.asarray(upright))
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        some = ", ".join(f"{width}×{height}" for height, width in sorted(shapes)[:3])
        raise ConfigError("data.image_size", None, f"pixels a side, as the images' sizes differ ({some}, …)")
    colour = any(image.ndim == 3 for image in images)
    return np.stack([_channels_first(image, colour) for image in images])


def _eight_bits(image: Image.Image) -> Image.Image:
    """In grey or in colour, 8 bits a channel."""
    from PIL import Image

    if image.mode in DEEP_MODES:
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode is {image.mode}, 32 bits without a range; save it with 8 or 16 bits")
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def resize(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Grey pixels [N, 1, H, W] uint8 → [N, 1, size, size]; unchanged where size is None."""
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    from PIL import Image

    resized = [Image.fromarray(p[0]).resize((size, size), Image.Resampling.BICUBIC) for p in pixels]
    return np.stack([np.asarray(image)[None] for image in resized])


def _channels_first(image: np.ndarray, colour: bool) -> np.ndarray:
    if image.ndim == 3:
        return image.transpose(2, 0, 1)
    return np.repeat(image[None], 3 if colour else 1, axis=0)
