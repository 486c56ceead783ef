"""How a student does on parts of the test data: each domain or label, and what each institution keeps.

    group/<name>         its metric on the global test set's examples of one domain (text) or label (images)
    local/<participant>  its metric on what an institution keeps to test itself

In a real federation an institution would find out the second by itself, once it has the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.types import Examples, concatenate

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner


def by_group(learner: Learner, examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """Only of groups that occur; nothing where images are compared with each other's captions, which
    would be easier the smaller the group."""
    if not learner.modality.labelled(examples):
        return {}
    scores = _scores(learner, examples, examples.groups)
    return {f"group/{names[group]}": score for group, score in scores.items()}


def by_institution(learner: Learner, tests: Mapping[int, Examples]) -> dict[str, float]:
    """tests: participant → its own test data; one without any is left out."""
    there = {who: own for who, own in tests.items() if len(own)}
    if not there:
        return {}
    whole = concatenate(list(there.values()))
    if learner.modality.labelled(whole):
        owners = np.repeat(list(there), [len(own) for own in there.values()])
        scores = _scores(learner, whole, owners)
    else:  # images are compared with the captions of their own institution
        scores = {who: learner.evaluate(own)[0] for who, own in there.items()}
    return {f"local/{who}": score for who, score in scores.items()}


def _scores(learner: Learner, examples: Examples, owners: np.ndarray) -> dict[int, float]:
    """Owner → the metric on its examples, in one pass over all.   owners: [N] int64."""
    different, place = np.unique(owners, return_inverse=True)
    loss, correct, rows = (np.bincount(place, weights=column) for column in learner.marks(examples))
    return {
        int(owner): learner.modality.score(float(loss[k] / rows[k]), float(correct[k] / rows[k]))
        for k, owner in enumerate(different)
    }
