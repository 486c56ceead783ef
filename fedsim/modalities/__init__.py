"""What differs between text and images: batches, which rows are predictions, the metric.

A modality turns examples into model inputs, and a model's logits into rows of predictions over K
classes with (where known) the right class of each row. All losses and methods work on rows, so they
are the same for all modalities. A new modality is one file and one line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.modalities.base import Modality


def modality(name: str) -> Modality:
    """The modality of that name; imports torch only when asked."""
    from fedsim.modalities.image import Image
    from fedsim.modalities.text import Text

    return {"text": Text, "image": Image}[name]()
