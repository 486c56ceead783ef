"""Images: pixels as a model reads them."""

import numpy as np
import pytest
import torch

from fedsim.modalities import modality
from fedsim.types import Examples


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_pixels_are_between_minus_one_and_one_on_every_device(device: str) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    examples = Examples({"pixel_values": every}, np.zeros(256, np.int64), np.zeros(256, np.uint64))
    order = np.random.default_rng(0).permutation(256)
    found = modality("image").inputs(examples, order, torch.device(device))["pixel_values"]
    assert found.shape == (256, 1, 1, 1) and found.dtype == torch.float32
    if device == "cpu":
        # As torch reckons where the pixels lie on another device.
        assert torch.equal(found.flatten(), torch.from_numpy(order).to(torch.uint8) / 127.5 - 1.0)
        assert found.min() == -1.0 and found.max() == 1.0
