"""Error feedback for biased quantisers (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847).

What quantising took from a sample's answer is added to the next answer about the same sample:

    v = p + e,    q = Q(v),    e ← v − q

so that over the rounds the mean of what was sent is the mean of what was meant, up to the last error
divided by the number of rounds. v can leave the simplex; it is what lies below 0 that is not sent. Of a
tail every class gets its share in each round, so what is too much can't be taken back: not for `top_k`.
"""

from __future__ import annotations

import numpy as np

from fedsim.types import Responses
from fedsim.wire.quantise import Quantised, to_dense

KEY = "residual"


class Feedback:
    """The errors of one sender: [N, p, K] float16 in its memory, for a proxy set of N samples."""

    def __init__(self, memory: dict[str, np.ndarray], proxy_size: int, positions: int, classes: int) -> None:
        shape = (proxy_size, positions, classes)
        # A copy, so that what the memory was loaded from or shared with stays as it is.
        memory[KEY] = memory[KEY].copy() if KEY in memory else np.zeros(shape, np.float16)
        self._errors = memory[KEY]

    def wanted(self, samples: np.ndarray, probs: np.ndarray) -> np.ndarray:
        """v for the rows [R, K] of some samples."""
        errors: np.ndarray = self._errors[samples].reshape(probs.shape).astype(np.float32)
        errors += probs
        return errors

    def keep(self, samples: np.ndarray, wanted: np.ndarray, sent: Quantised, levels: int) -> None:
        """Note the errors of what was sent."""
        lengths, ids, counts = sent
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        _, positions, classes = self._errors.shape
        rows = Responses(samples, positions, classes, levels, offsets, ids, counts)
        errors = wanted - to_dense(rows, slice(None))
        self._errors[samples] = errors.reshape(len(samples), positions, classes)
