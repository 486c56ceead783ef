"""What a student learns with and leaves behind: maps of its features, and its domain adaptation layer.

Both are parameters of the model while it trains, below the name `heads`, and hooks use them within the
model's own forward pass, so that optimiser, ranks and checkpoints treat them as any other. Neither is in
the exported model: the maps are dropped and the adaptation is folded into the last norm.

    maps     ĝ_l = W_l f_l(x),           l a layer, f_l its pooled hidden state; W_l without bias, Xavier
    domains  h = f ⊙ (1 + E d(x)),       f the last hidden state, d(x) where the teacher's answer comes
             from, E zero at first (FiLM without shift: Perez et al., arXiv 1709.07871). Where no d(x) is
             known, at inference above all, d̄: its mean over the proxy set.

Legend: B examples, S positions, d width, r columns of an embedding, D size of a domain code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.errors import ConfigError
from fedsim.learning.training import HeadSpec
from fedsim.models.taps import hidden, last_hidden, layers

State = dict[str, Tensor]

PREFIX = "heads."


class Scale(nn.Module):
    """1 + E d.   `mean` is d̄; it is no buffer, so that it is saved and spread as parameters are."""

    def __init__(self, width: int, domains: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, domains))
        self.mean = nn.Parameter(torch.zeros(domains), requires_grad=False)

    def forward(self, domain_BD: Tensor | None) -> Tensor:
        """[B, d], or [d] where no domains are given."""
        domain = self.mean if domain_BD is None else domain_BD.to(self.weight)
        scale: Tensor = 1 + domain @ self.weight.t()
        return scale


class Heads(nn.Module):
    """pool: [B, S, d] and what has content → [B, d], see `Modality.pooled`.

    domains: [B, D] for the next forward pass, or None.   content: [B, S] bool for it, or None.
    embeddings: one [B, r] for each depth, of the last forward pass.
    """

    def __init__(
        self, widths: list[int], width: int, spec: HeadSpec, pool: Callable[[Tensor, Tensor | None], Tensor]
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(w, spec.rank, bias=False) for w in widths)
        for linear in self.maps:
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
        self.scale = Scale(width, spec.domains) if spec.domains else None
        self.domains: Tensor | None = None
        self.content: Tensor | None = None
        self.embeddings: list[Tensor] = []
        self._pool = pool
        self._states: dict[int, Tensor] = {}

    def keep(self, place: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self._states[place] = hidden(output)

    def adapt(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        assert self.scale is not None
        scale = self.scale(self.domains)
        if scale.ndim == 2 and output.ndim == 3:
            scale = scale[:, None]
        adapted: Tensor = output * scale.to(output)
        return adapted

    def finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After the model's own forward pass; inside it as far as DeepSpeed can see."""
        states = [self._pool(self._states[k], self.content) for k in range(len(self.maps))]
        self.embeddings = [linear(s) for linear, s in zip(self.maps, states, strict=True)]
        self._states.clear()


def attach(
    model: nn.Module, spec: HeadSpec, pool: Callable[[Tensor, Tensor | None], Tensor], seed: int
) -> Heads:
    """Give a model heads. Its own parameters keep their order, the heads' come after them.

    Raises ConfigError for a model whose last norm can't take up the adaptation.
    """
    last, names = last_hidden(model), layers(model, spec.depths)
    widths = [_width(model, name) for name in names]
    torch.manual_seed(seed)
    heads = Heads(widths, _width(model, last), spec, pool)
    if spec.domains:
        _check_foldable(model, last)
        model.get_submodule(last).register_forward_hook(heads.adapt)
    for place, name in enumerate(names):  # after the adaptation: what is mapped is what answers
        model.get_submodule(name).register_forward_hook(partial(heads.keep, place))
    if names:
        model.register_forward_hook(heads.finish)
    model.add_module("heads", heads)
    return heads


def without_heads(model: nn.Module, state: State) -> State:
    """The weights of a plain model that answers as this one does with d̄.

    state: all full weights by name; not changed.
    """
    heads = {n: w for n, w in state.items() if n.startswith(PREFIX)}
    plain = {n: w for n, w in state.items() if n not in heads}
    if f"{PREFIX}scale.weight" in heads:
        scale = 1 + heads[f"{PREFIX}scale.weight"] @ heads[f"{PREFIX}scale.mean"]
        for name in _reads_scale(model, last_hidden(model)):
            plain[name] = plain[name] * scale
    return plain


def _reads_scale(model: nn.Module, last: str) -> list[str]:
    """The parameters that, multiplied by a scale [d] along their last dimension, scale the last state."""
    names = dict(model.get_submodule(last).named_parameters())
    if names:  # a norm: its weight, and its bias if it has one
        return [f"{last}.{name}" for name in names]
    # An activation without parameters: the columns of the layer that reads it.
    before, _, place = last.rpartition(".")
    return [f"{before}.{int(place) + 1}.weight"]


def _check_foldable(model: nn.Module, last: str) -> None:
    norm = model.get_submodule(last)
    if not dict(norm.named_parameters()):
        return
    with torch.no_grad():
        probe = torch.linspace(-1, 1, _width(model, last)).to(norm.weight)[None]  # type: ignore[arg-type]
        once = norm(probe)
        for p in norm.parameters():
            p.mul_(2)
        twice = norm(probe)
        for p in norm.parameters():
            p.div_(2)
    if not torch.allclose(twice, 2 * once, rtol=1e-4, atol=1e-6):  # as where 1 + weight is the factor
        raise ConfigError(
            "adaptation", type(model).__name__, "false: its last norm is not linear in its weight"
        )


def _width(model: nn.Module, name: str) -> int:
    """Numbers in one position of a module's output."""
    module = model.get_submodule(name)
    if isinstance(getattr(module, "weight", None), Tensor):
        return int(module.weight.shape[-1])  # type: ignore[union-attr, index]
    config: Any = getattr(model, "config", None)
    if isinstance(config, dict):  # of `plain`: the layer before an activation
        before, _, place = name.rpartition(".")
        return int(model.get_parameter(f"{before}.{int(place) - 1}.weight").shape[0])
    return int(getattr(config, "vision_config", config).hidden_size)
