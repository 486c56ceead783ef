"""What differs between text, images and both: batches, which rows are predictions, the metric.

A modality turns examples into model inputs, and a model's logits into rows of predictions over K
classes with (where known) the right class of each row. All losses and methods work on rows, so they
are the same for all modalities; only the supervised loss can be a modality's own. A new modality is
one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.modalities.base import Modality


def modality(name: str, prompts: Sequence[Sequence[int]] = ()) -> Modality:
    """The modality of that name; imports torch only when asked.   prompts: see `Interface`."""
    from fedsim.modalities.image import Image
    from fedsim.modalities.image_text import ImageText
    from fedsim.modalities.text import Text

    known: dict[str, Callable[[], Modality]] = {
        "text": Text,
        "image": Image,
        "image_text": lambda: ImageText(prompts),
    }
    return known[name]()
