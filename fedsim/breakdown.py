"""How a student does on parts of the test data: each domain or label, and what each institution keeps.

    group/<name>         its metric on the global test set's examples of one domain (text) or label (images)
    local/<participant>  its metric on what an institution keeps to test itself

In a real federation an institution would find out the second by itself, once it has the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.types import Examples

if TYPE_CHECKING:
    from fedsim.learner import Learner


def by_group(learner: Learner, examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """Only of groups that occur; nothing where images are compared with each other's captions, which
    would be easier the smaller the group."""
    if not learner.modality.labelled(examples):
        return {}
    there = np.unique(examples.groups)
    parts = {names[group]: examples.take(np.flatnonzero(examples.groups == group)) for group in there}
    return {f"group/{name}": learner.evaluate(part)[0] for name, part in parts.items()}


def by_institution(learner: Learner, tests: Mapping[int, Examples]) -> dict[str, float]:
    """tests: participant → its own test data; one without any is left out."""
    return {f"local/{who}": learner.evaluate(own)[0] for who, own in tests.items() if len(own)}
