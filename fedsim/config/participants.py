"""The institutions: how many, what they train, on which machines and links, and what goes wrong with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedsim.config.base import Device, Fraction, Positive, Settings, Training
from fedsim.config.data import Partition


class Link(Settings):
    """One participant's connection to the coordinator."""

    up_mbps: Positive = 100.0
    """Mbit/s from participant to coordinator (1e6 bits a second, of packets with their headers)."""
    down_mbps: Positive = 100.0
    """Mbit/s from coordinator to participant."""
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    """One-way delay of every packet, in both directions."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of packets lost and sent again: transfer times grow by 1/(1 − loss)."""


class Adapter(Settings):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on frozen weights, through the `peft` library."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    alpha: Positive = 16.0
    """What an adapter adds is multiplied by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get one, e.g. `[q_proj, v_proj]`; `all-linear` is all but the output."""


class Adversary(Settings):
    """Participants that work against the others, all in the same way; see `fedsim.adversaries`."""

    kind: Literal[
        "label_flip", "backdoor", "free_rider",
        "least_likely", "least_similar", "poison", "sign_flip", "noise", "false_confidence",
        "false_prototypes", "false_features",
        "malformed", "oversized", "replay",
    ] = "least_likely"  # fmt: skip
    share: Fraction = 0.2
    """Part of the participants that are adversaries, which ones by the seed; 0 for a clean run."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of an answer that is the attack; the rest is honest."""


class Privacy(Settings):
    """Differential privacy of every training example, by DP-SGD (needs the extra `privacy`); see
    `fedsim.privacy` for what it covers. `training.batch_size` is then the mean of batches drawn example by
    example; `gradient_clip` acts after the noise, on the whole step, and schedule, optimiser and
    augmentation (of each image by itself) cost no privacy."""

    epsilon: Positive | None = None
    """Largest ε of each participant over the whole run: the noise is solved for it."""
    noise: Positive | None = None
    """In place of `epsilon`: standard deviation of the noise ÷ `clip`."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ of (ε, δ); well below 1 ÷ the examples of a shard."""
    clip: Positive = 1.0
    """Largest norm of one example's gradient."""
    accountant: Literal["rdp", "prv"] = "rdp"
    """What ε is computed by; `prv` is tighter, and takes seconds for each participant and round."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Privacy:
        if (self.epsilon is None) == (self.noise is None):
            raise ValueError("either epsilon or noise")
        return self


class Participants(Settings):
    """The institutions. Lists are dealt out in turn: with two models, 0, 2, 4 … get the first."""

    count: Annotated[int, Field(ge=1)] = 5
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("pythia-tiny", "llama-tiny")
    """Presets, folders with a `config.json`, or pretrained folders."""
    training: Training = Training()
    adapter: Adapter | None = None
    """Train only adapters, on the frozen weights of a pretrained folder or of the public start. Where a
    method averages parameters, only theirs travel, and its student has adapters too."""
    partition: Partition = Partition()
    links: Annotated[tuple[Link, ...], Field(min_length=1)] = (Link(),)
    devices: Annotated[tuple[Device, ...], Field(min_length=1)] = (Device(),)
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the participants that is asked in a round, drawn anew each time."""
    dropout: Fraction = 0.0
    """Chance that one that is asked fails before it begins."""
    message_loss: Fraction = 0.0
    """Chance that a message to the coordinator is sent and never arrives."""
    privacy: Privacy | None = None
    """Hide single examples of the shards; absent: specialists are trained without noise. Methods that
    bring the private data together (`centralized`) don't."""
    adversary: Adversary | None = None
    """Who lies, and how; absent: everybody is honest."""
    deadline_s: Positive | None = None
    """Virtual seconds after which the coordinator goes on without those who have not delivered."""
