"""What a method keeps from round to round, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def save(memory: dict[str, np.ndarray], path: Path) -> None:
    """Write the arrays. safetensors takes an array's buffer as it lies in memory, whatever its strides say:
    of a column of a matrix it would write the first rows."""
    save_file({name: np.asarray(array, order="C") for name, array in memory.items()}, str(path))
