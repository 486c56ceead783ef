"""What is kept from round to round comes back as it was, however it lay in memory."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from fedsim.disk import memory


def test_columns_and_numbers_come_back_as_they_were(tmp_path: Path):
    matrix = np.arange(12).reshape(4, 3)
    kept = {"column": matrix[:, 1], "turned": matrix.T, "back": matrix[::-1], "number": np.array(7)}
    memory.save(kept, tmp_path / "memory.safetensors")
    found = load_file(tmp_path / "memory.safetensors")
    assert found.keys() == kept.keys()
    assert all(np.array_equal(found[name], kept[name]) for name in kept)
    assert found["number"].shape == ()
