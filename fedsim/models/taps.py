"""Where to look into a model: its blocks and its last norm, found by their place in the tree of modules.

A depth of 1 is the hidden state that the model's answers are read from, after its last norm; depth ρ < 1
is what block ⌈ρL⌉ of L gives out. Of `mlp` and `cnn` the blocks are the layers' activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.errors import ConfigError
from fedsim.models.plain import Classifier

LAST = (1.0,)
"""The depth of the last hidden state alone."""


def last_hidden(model: nn.Module) -> str:
    """The name of the module whose output is the model's last hidden state: depth 1."""
    return _places(model)[1]


def layers(model: nn.Module, depths: Sequence[float]) -> list[str]:
    """The names of the modules that give out the hidden states at these depths."""
    blocks, last = _places(model)
    return [last if depth == 1 else blocks[math.ceil(depth * len(blocks)) - 1] for depth in depths]


@contextmanager
def tapped(model: nn.Module, depths: Sequence[float]) -> Iterator[list[Tensor]]:
    """While it is open, every forward pass leaves its hidden states at `depths` in the list."""
    found: list[Tensor] = []

    def keep(place: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[place] = hidden(output)

        return hook

    found.extend([torch.empty(0)] * len(depths))
    names = layers(model, depths)
    handles = [model.get_submodule(n).register_forward_hook(keep(k)) for k, n in enumerate(names)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def output_layer(model: nn.Module, classes: int) -> str:
    """The name of the linear layer that gives out one number for each class; of a dual encoder the one that
    takes what it sees to the common space.

    Raises ConfigError for a model without one.
    """
    if hasattr(model, "visual_projection"):
        return "visual_projection"
    fitting: list[str] = [
        name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes
    ]
    if not fitting:
        raise ConfigError(
            "model", type(model).__name__, f"a model that ends in a linear layer over {classes}"
        )
    return fitting[-1]


@contextmanager
def reading(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """While it is open, every forward pass appends what the module reads to the list."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0])

    handle = model.get_submodule(name).register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def hidden(output: Any) -> Tensor:
    """The hidden states that a block or norm gave out, in whatever it packs them."""
    states = output if isinstance(output, Tensor) else output[0]
    assert isinstance(states, Tensor)
    return states


def _places(model: nn.Module) -> tuple[list[str], str]:
    """(names of the blocks, name of the last hidden state's module)."""
    if isinstance(model, Classifier):
        blocks = [f"layers.{n}" for n, m in model.layers.named_children() if isinstance(m, nn.ReLU)]
        return blocks, blocks[-1]
    tree = dict(model.named_modules())
    # Of two encoders the one that sees: its state does not depend on what it is compared with.
    stacks = {
        n: m
        for n, m in tree.items()
        if isinstance(m, nn.ModuleList) and not any(p.startswith(("text_", "heads")) for p in n.split("."))
    }
    if stacks:
        stack = max(stacks, key=lambda name: len(stacks[name]))
        above = stack
        while "." in above:
            above = above.rpartition(".")[0]
            norms = [n for n, m in tree[above].named_children() if "Norm" in type(m).__name__]
            if norms:
                return [f"{stack}.{k}" for k in range(len(stacks[stack]))], f"{above}.{norms[-1]}"
    kind = type(model).__name__
    raise ConfigError("model", kind, "a model with a stack of blocks and a norm after it: features need them")
