"""A model's last layer: what it reads, what it should give out, and another one in its place.

Legend: n examples, d numbers that the layer reads, K that it gives out.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fedsim.errors import DivergedError
from fedsim.learning.learner import Learner
from fedsim.learning.training import Objective
from fedsim.models.taps import output_layer, reading
from fedsim.types import Examples

_LEARN = Objective(response=0.0, task=1.0)
_ANSWER = Objective(response=1.0, task=0.0)


def read(learner: Learner, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer reads of each labelled example, [n, d], and what it should give out, [n, K].

    Raises DivergedError where either left the finite numbers.
    """
    states, aims = [], []
    with reading(learner.engine.model, output_layer(learner.engine.model, learner.classes)) as seen:
        for index, outputs in learner.outputs(examples, _LEARN):
            states.append(seen.pop().float().cpu().numpy())
            aims.append(
                learner.modality.aims(outputs, examples, index, learner.classes).float().cpu().numpy()
            )
    found = np.concatenate(states), np.concatenate(aims)
    if not all(np.isfinite(part).all() for part in found):
        raise DivergedError("hidden states are not finite; a smaller learning rate may help")
    return found


def replace(learner: Learner, weights: np.ndarray, proxy: Examples, certainty: float) -> None:
    """Set the layer's weights [K, d], which were found for vectors of length 1, and its bias to zero.

    They are scaled so that an answer which could not be better has this probability in the mean over classes;
    what vectors are long, the proxy set tells. A dual encoder has a temperature for that.
    """
    name, lengths = output_layer(learner.engine.model, learner.classes), []
    with reading(learner.engine.model, name) as seen:
        for _, outputs in learner.outputs(proxy, _ANSWER):
            lengths.append(seen.pop().double().norm(dim=1).cpu().numpy())
            ideals = learner.modality.ideals(outputs, learner.classes).double().cpu()
    scale, state = sure(ideals @ ideals.t(), certainty), learner.weights()
    if "logit_scale" in state:
        state["logit_scale"] = torch.tensor(math.log(scale))
    else:
        weights = weights * (scale / float(np.concatenate(lengths).mean()))
    state[f"{name}.weight"] = torch.from_numpy(weights.astype(np.float32))
    if f"{name}.bias" in state:
        state[f"{name}.bias"] = torch.zeros(len(weights))
    learner.load_parameters(np.concatenate([w.float().numpy().ravel() for w in state.values()]))


def sure(likeness_KK: torch.Tensor, certainty: float) -> float:
    """The scale s ≤ 1000 at which softmax(s · likeness) has `certainty` on its diagonal in the mean."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        if float(torch.softmax(middle * likeness_KK, dim=1).diagonal().mean()) < certainty:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
