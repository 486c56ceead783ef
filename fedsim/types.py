"""The records that flow between the parts, every field with its shape and unit.

Legend: N examples, n proxy samples in one message, p predictions per sample (tokens of a text
window, 1 for an image), R = n·p response rows, K classes (or vocabulary), P parameters, L layers,
r numbers that a hidden state is reduced to, m prototypes.
Only numpy here, so that the driver and the analyst never import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

COORDINATOR = -1
"""The sender id of the coordinator; participants are 0, 1, 2, …"""


@dataclass(frozen=True)
class Examples:
    """N examples of one split, ready for a modality to batch.

    arrays: columns with first dimension N (text: `input_ids` [N, S] int32, and where there are prompts
        their lengths `prompt` [N] and where a row ends and padding begins, `length` [N]; images:
        `pixel_values` [N, C, H, W] uint8 and `labels` [N] int64, absent where unlabelled; image–text: those
        of images and the captions' `input_ids` [N, S] int32, absent where unknown).
    groups: [N] int64, index of the example's domain or label in `Federation.group_names`.
    keys: [N] uint64, fingerprint of the source document or image: proves that splits are disjoint.
    """

    arrays: dict[str, np.ndarray]
    groups: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, index: np.ndarray) -> Examples:
        """The examples at `index`, in that order."""
        return Examples({k: v[index] for k, v in self.arrays.items()}, self.groups[index], self.keys[index])


@dataclass(frozen=True)
class Interface:
    """What the data demands of every model, so that their responses are about the same classes.

    modality: `text`, `image` or `image_text`.   classes: vocabulary size, labels or prompts, K.
    window: tokens per window (text) or caption (image–text).
    image_shape: images, (channels, height, width).   group_names: the domains (text) or labels (images).
    prompts: image–text, the K texts that an image is compared with, each `window` token ids.
    vocabulary, end_of_text: image–text, tokens that there are, and the one that ends a caption.
    """

    modality: str
    classes: int
    window: int
    image_shape: tuple[int, int, int] | None = None
    group_names: tuple[str, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()
    vocabulary: int = 0
    end_of_text: int = 0


@dataclass(frozen=True)
class Metric:
    """A score's name and its direction."""

    name: str
    higher_is_better: bool


METRICS = {
    "text": Metric("perplexity", False),
    "image": Metric("accuracy", True),
    "image_text": Metric("accuracy", True),
}
"""What each modality is scored by, on the global test set; image–text by zero-shot classification."""


@dataclass(frozen=True)
class Shard:
    """One participant's private data: what it trains on and what it keeps to test itself."""

    participant: int
    train: Examples
    test: Examples


@dataclass(frozen=True)
class Public:
    """What everybody may see, and the test set that only the evaluation sees.

    held_out: labelled images of another task for the evaluation, with groups of their own; None without.
    """

    proxy: Examples
    validation: Examples
    test: Examples
    held_out: Examples | None = None


@dataclass(frozen=True)
class Responses:
    """What a model answers on proxy samples: R probability rows, held as counts on a simplex grid.

    Row r gives class `ids[j]` the probability `counts[j] / levels` for j in
    offsets[r]:offsets[r+1]; ids ascend within a row, counts are ≥ 1 and sum to `levels`.
    With a tail they may sum to less: what is left is spread evenly over all K classes.

    samples: [n] int64, distinct, ascending: positions in the proxy set.
    positions: p, rows per sample; row i·p + t belongs to samples[i].
    classes: K.   levels: L, the number of quanta a row is divided into.
    offsets: [R + 1] int64.   ids: [nnz] int32.   counts: [nnz] int32.
    claims: [n] float32 or None: what the sender says about how well it knows each sample, lower is
        better (see `confidence`).   skills: [G] float32 or None: its loss in nats on each group of the
        public validation split. Both are self-reported, so never trusted unclipped.
    tail: whether the rows may have one.
    """

    samples: np.ndarray
    positions: int
    classes: int
    levels: int
    offsets: np.ndarray
    ids: np.ndarray
    counts: np.ndarray
    claims: np.ndarray | None = None
    skills: np.ndarray | None = None
    tail: bool = False

    @property
    def rows(self) -> int:
        return len(self.samples) * self.positions

    @property
    def tails(self) -> np.ndarray:
        """Quanta of each row that no class has of its own, [R] int64."""
        if not self.rows:
            return np.zeros(0, np.int64)
        tails: np.ndarray = self.levels - np.add.reduceat(self.counts, self.offsets[:-1], dtype=np.int64)
        return tails


@dataclass(frozen=True)
class Parameters:
    """A model's trainable parameters, flattened in state-dict order.

    pieces: float32, one after the other [P]. Views, so never written to: of the message they came in, or of
        the model itself, and then they say what it was only until it learns on.
    examples: n_k, how many private examples they were trained on.
    bound: what no magnitude in them exceeds, where somebody looked.
    """

    pieces: tuple[np.ndarray, ...]
    examples: int
    bound: float | None = None

    @property
    def size(self) -> int:
        """P."""
        return sum(map(len, self.pieces))

    @cached_property
    def vector(self) -> np.ndarray:
        """All in one, [P] float32; joined when it is asked for, as a message doesn't need that."""
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)


@dataclass(frozen=True)
class Update:
    """A change of parameters that both ends know the rest of, in steps; see `wire.update`.

    Parameter i changes by codes[i] · scales[i // BLOCK].   codes: [P] int8, −levels … levels.
    scales: [B] float32 ≥ 0, one for each block.   levels: 2^(bits − 1) − 1.
    examples: n_k, how many private examples stand behind it.
    """

    codes: np.ndarray
    scales: np.ndarray
    levels: int
    examples: int


@dataclass(frozen=True)
class Sequences:
    """N sequences, each the continuation of a proxy sample's prompt.

    samples: [N] int64, distinct, ascending: positions in the proxy set.
    offsets: [N + 1] int64: sequence i is tokens[offsets[i]:offsets[i + 1]], at least one token; the end of
        the text, where it came to one, is its last.   tokens: [M] int32.
    """

    samples: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> np.ndarray:
        """Generated tokens of each, [N] int64."""
        lengths: np.ndarray = np.diff(self.offsets)
        return lengths

    @property
    def owner(self) -> np.ndarray:
        """The sequence that each token is in, [M] int64."""
        return np.repeat(np.arange(len(self)), self.lengths)


@dataclass(frozen=True)
class Rollouts:
    """One end's part of an exchange: what it makes of sequences that both ends hold, and new ones.

    sequences: that the sender generated or passes on; None where it has none.
    drawn: [M, J] int32, other tokens that may stand where those of `sequences` do; None where there are none.
    scores: [M, 1 + J] float32 ≤ 0, log-probabilities under the sender's model of the tokens in question and
        of those drawn beside them; None where it was asked nothing.
    rows: the sender's distributions at these tokens, M rows of one position; None where the scores are all.
    claims: [N] float32 or None, how well the sender knows the samples in question, see `Responses`.
    """

    sequences: Sequences | None = None
    drawn: np.ndarray | None = None
    scores: np.ndarray | None = None
    rows: Responses | None = None
    claims: np.ndarray | None = None


@dataclass(frozen=True)
class Features:
    """What layers of a model hold of proxy samples: r numbers for each, as steps of −127 … 127.

    Column c of layer l is codes[l, :, c] · scales[l, c]. Which basis the columns are in is the sender's
    own affair, so the features of two senders can't be compared, let alone averaged, number by number.

    samples: [n] int64, distinct, ascending: positions in the proxy set.
    codes: [L, n, r] int8.   scales: [L, r] float32 ≥ 0.
    """

    samples: np.ndarray
    codes: np.ndarray
    scales: np.ndarray

    def values(self, layer: int) -> np.ndarray:
        """[n, r] float64."""
        values: np.ndarray = np.multiply(self.codes[layer], self.scales[layer], dtype=np.float64)
        return values


@dataclass(frozen=True)
class Prototypes:
    """Typical representations of groups: m centroids. A group or slot without examples is left out.

    groups: [m] int64, class, prompt or concept.   slots: [m] int64, which centroid of its group;
    (group, slot) ascend.   centroids: [m, r] float32.   counts: [m] int64 ≥ 1, examples behind each: they
    tell the receiver how the sender's data is distributed.   confidence: [m] float32 in 0 … 1.
    """

    groups: np.ndarray
    slots: np.ndarray
    centroids: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Mixture:
    """Any of the three in one message; at least one of them."""

    responses: Responses | None = None
    features: Features | None = None
    prototypes: Prototypes | None = None

    def parts(self) -> dict[str, Responses | Features | Prototypes]:
        """What is there, by the name of its kind."""
        each = {"responses": self.responses, "features": self.features, "prototypes": self.prototypes}
        return {kind: part for kind, part in each.items() if part is not None}


@dataclass(frozen=True)
class MaskedSums:
    """Numbers behind masks that cancel in everybody's sum; see `aggregation.masks`.

    codes: [m] uint32.   examples: n_k, how many private examples stand behind them.
    """

    codes: np.ndarray
    examples: int


Knowledge = Responses | Parameters | Update | Features | Prototypes | Mixture | Rollouts | MaskedSums


class Report(NamedTuple):
    """What a participant's host says about one step besides the message (never leaves the site
    in a real federation; a simulator may look).

    flops: counted floating-point operations of the step.   wall_s: measured seconds.
    sent: bytes of its message; None where it sends none.   kind: the knowledge inside.
    sections: its bytes by section, the header among them.   stages: its bytes after each stage of the codec.
    loss: mean training loss on its own shard, nats.   score: its specialist on the global test
        set; both NaN where there is none.   fate: what became of it: nothing special (empty),
        `diverged` (it sends nothing), `lost` or `late` (what it sent is never used).
    epsilon: what its training has spent of privacy so far; NaN without `participants.privacy`.
    local_score: its specialist on its own test data, where `score` is known and there are any; else NaN.
    peak_memory_mib: the host's largest memory so far.

    A tuple: a frozen dataclass of so many fields takes a thirtieth of a small model's step to make.
    """

    participant: int
    model: str
    examples: int
    flops: float
    wall_s: float
    sent: int | None
    sections: dict[str, int]
    stages: dict[str, int]
    kind: str = ""
    fate: str = ""
    loss: float = float("nan")
    score: float = float("nan")
    epsilon: float = float("nan")
    local_score: float = float("nan")
    peak_memory_mib: float = 0.0


@dataclass(frozen=True)
class Broadcast:
    """A round's message to everybody: its bytes on the wire (None where none was sent), the knowledge
    inside, and its bytes by section."""

    size: int | None = None
    kind: str = ""
    sections: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Closing:
    """How a round went at the coordinator.

    broadcast: what it sent at the beginning.
    statuses: participant → `ok` or `rejected:<reason>`, for every message that arrived.
    score, loss: the student on the test set, NaN where not evaluated.   learn_loss: of its training.
    terms: of that, each weighted term by its name.
    attack_success: how often a backdoor's trigger works on it, 0 … 1; NaN where there is none.
    flops: what the coordinator computed.   peak_memory_mib: its process' largest memory so far.
    measures: all else that was measured of the student, by name: see `results.MEASURES`.
    """

    broadcast: Broadcast = Broadcast()
    statuses: dict[int, str] = field(default_factory=dict)
    score: float = float("nan")
    loss: float = float("nan")
    learn_loss: float = float("nan")
    terms: dict[str, float] = field(default_factory=dict)
    attack_success: float = float("nan")
    flops: float = 0.0
    peak_memory_mib: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)


def concatenate(parts: list[Examples]) -> Examples:
    """Several sets of examples as one, in their order; columns that not all of them have are dropped."""
    shared = [c for c in parts[0].arrays if all(c in part.arrays for part in parts)]
    return Examples(
        {c: np.concatenate([part.arrays[c] for part in parts]) for c in shared},
        np.concatenate([part.groups for part in parts]),
        np.concatenate([part.keys for part in parts]),
    )
