"""The engine interface and its plain torch form, which participants use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedsim.config import Training

State = dict[str, Tensor]
"""Flat name → tensor, so that it can be written with safetensors (no pickle)."""

STATE = "state.safetensors"


class Engine(Protocol):
    """One model and its optimiser."""

    model: nn.Module
    rank: int
    world: int
    device: torch.device
    size: int
    """Number of trainable parameters. Kept, because sharded ones can't be counted by one rank alone."""

    def forward(self, **inputs: Tensor) -> Any:
        """The model's outputs, through whatever wraps it."""

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Backward, average over ranks, clip, update, zero the gradients."""

    def weights(self) -> State:
        """The full weights on the CPU, by parameter name."""

    def vector(self) -> np.ndarray:
        """The trainable weights as one vector [size] float32, in the order of `weights`."""

    def load_vector(self, vector: np.ndarray) -> None:
        """Set the weights from such a vector; the optimiser's moments stay."""

    def assign(self, parameter: nn.Parameter, values: np.ndarray) -> None:
        """Set one parameter that is not trained; on all ranks together."""

    def save(self, folder: Path) -> None:
        """Write weights and optimiser below `folder`, enough to go on bit for bit."""

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote. Raises FileNotFoundError where it is missing."""

    def close(self) -> None:
        """Release what the engine holds."""


_SMALL = 4096
"""So many weights may be copied to be one piece."""

BETAS = (0.9, 0.95)
"""Of AdamW, as language models are trained with it."""


_run_backward = torch.autograd.Variable._execution_engine.run_backward  # type: ignore[attr-defined]
"""What `Tensor.backward` comes to: (tensors, their gradients, keep the graph, make another, inputs). What it
asks before is a tenth of a small model's step. Torch has no public name for it, and its version is pinned."""


def decayed(model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Parameter groups with decay on matrices only: biases and norms are not pulled to zero. One group where
    nothing decays: each costs as much as a small model's update."""
    if not training.weight_decay:
        return [{"params": trainable(model), "weight_decay": 0.0}]
    matrices = [p for p in trainable(model) if p.ndim >= 2]
    others = [p for p in trainable(model) if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """torch's own AdamW or SGD. AdamW in one kernel: parameter by parameter it takes a small model as long as
    the gradient."""
    groups = decayed(model, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=BETAS, fused=True)


def descend(optimizer: torch.optim.Optimizer) -> None:
    """A step of `torch.optim.SGD` as `optimizer` makes it, w ← w − η (g + λ w), with the same bits. What
    torch does around its step (hooks, a profiler's record) takes three times as long as a small model's."""
    for group in optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if not gradients:
            continue
        weights = [p.data for p in group["params"] if p.grad is not None]  # which autograd doesn't watch
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        torch._foreach_add_(weights, gradients, alpha=-group["lr"])


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, in the model's order: all but those frozen under an adapter."""
    return [p for p in model.parameters() if p.requires_grad]


class TorchEngine:
    """Plain torch: what a participant trains its specialist with, and the reference for DeepSpeed."""

    rank, world = 0, 1

    def __init__(self, model: nn.Module, training: Training, device: torch.device) -> None:
        self.model = model.to(device)
        self.device = device
        self._parameters = trainable(model)  # walking over the modules each time costs more
        self._frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        self.size = sum(p.numel() for p in self._parameters)
        self._clip = training.gradient_clip
        self._optimizer = optimizer(model, training)
        self._one = torch.ones((), device=device)

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def step(self, loss: Tensor, learning_rate: float) -> None:
        _run_backward((loss,), (self._one,), False, False, (), allow_unreachable=True, accumulate_grad=True)
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if isinstance(self._optimizer, torch.optim.SGD):
            descend(self._optimizer)
        else:
            self._optimizer.step()
        for parameter in self._parameters:  # what zero_grad does, which takes ten times as long to begin
            parameter.grad = None

    def reset(self) -> None:
        """Forget the optimiser's moments; the weights stay."""
        self._optimizer.state.clear()

    def weights(self) -> State:
        return {n: p.detach().cpu().clone() for n, p in self.model.named_parameters()}

    def vector(self) -> np.ndarray:
        return np.concatenate(self._windows) if self._windows else flatten(self._parameters)

    def pieces(self) -> list[np.ndarray]:
        """`vector` in pieces. Large ones view the weights where numpy sees them: good until the next step."""
        if not self._windows:
            return [flatten(self._parameters)]
        return [some[0] if len(some) == 1 else np.concatenate(some) for some in self._runs]

    def load_vector(self, vector: np.ndarray) -> None:
        if not self._windows or len(vector) != self.size:
            unflatten(vector, self._parameters)
            return
        start = 0
        for window in self._windows:
            window[:] = vector[start : start + len(window)]
            start += len(window)

    def assign(self, parameter: nn.Parameter, values: np.ndarray) -> None:
        unflatten(values, [parameter])

    @cached_property
    def _windows(self) -> list[np.ndarray]:
        """The trainable weights where they lie, each as a flat array; none where numpy can't see them. To ask
        torch for them each time takes longer than copying a small model."""
        seen = (
            p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous()
            for p in self._parameters
        )
        return [p.detach().view(-1).numpy() for p in self._parameters] if all(seen) else []

    @cached_property
    def _runs(self) -> list[list[np.ndarray]]:
        """The windows, biases and other small ones together: to work with a piece takes longer than to copy
        a thousand numbers."""
        runs: list[list[np.ndarray]] = []
        for window in self._windows:
            if runs and sum(map(len, runs[-1])) + len(window) <= _SMALL:
                runs[-1].append(window)
            else:
                runs.append([window])
        return runs

    @property
    def nbytes(self) -> int:
        """What weights and moments take in memory."""
        moments = 2 if isinstance(self._optimizer, torch.optim.AdamW) else 0
        return 4 * (self.size * (1 + moments) + self._frozen)

    def save(self, folder: Path) -> None:
        save_state(folder, self.model, self._optimizer)

    def load(self, folder: Path) -> None:
        self.reset()
        load_state(folder, self.model, self._optimizer)

    def close(self) -> None:
        """Nothing is held beyond memory."""


def flatten(parameters: Sequence[Tensor]) -> np.ndarray:
    """The parameters one after the other, [P] float32."""
    vector = np.empty(sum(p.numel() for p in parameters), np.float32)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        vector[start:end] = parameter.detach().float().cpu().numpy().ravel()
        start = end
    return vector


def unflatten(vector: np.ndarray, parameters: Sequence[Tensor]) -> None:
    """Set the parameters from `flatten`'s vector. Raises ValueError for another length."""
    size = sum(p.numel() for p in parameters)
    if len(vector) != size:
        raise ValueError(f"the model has {size} parameters, the vector {len(vector)}")
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        part = vector[start:end].reshape(parameter.shape)
        if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
            np.copyto(parameter.detach().numpy(), part)  # the vector may be read-only, which torch dislikes
        else:
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(part.astype(np.float32)))
        start = end


def changes(name: str, parameter: Tensor) -> bool:
    """Whether a parameter belongs to what is learnt: trained, or set as the mean domain of `models.heads`."""
    return parameter.requires_grad or name.startswith("heads.")


def copy_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set a model's changing parameters by name; a missing one is a KeyError."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if changes(name, parameter):
                parameter.copy_(weights[name])


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Changing weights as `model.<parameter>` and moments as `optimizer.<entry>.<parameter>`."""
    flat: State = {}
    for name, parameter in model.named_parameters():
        if not changes(name, parameter):
            continue
        flat[f"model.{name}"] = parameter.detach().cpu().contiguous()
        for entry, value in optimizer.state.get(parameter, {}).items():
            flat[f"optimizer.{entry}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(flat, str(folder / STATE))


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `save_state` wrote; `optimizer` must be fresh."""
    flat = load_file(str(folder / STATE))
    copy_weights(model, {n[6:]: w for n, w in flat.items() if n.startswith("model.")})
    parameters = dict(model.named_parameters())
    for key, value in flat.items():
        if key.startswith("optimizer."):
            _, entry, name = key.split(".", 2)
            parameter = parameters[name]
            optimizer.state[parameter][entry] = value.to(parameter.device)
