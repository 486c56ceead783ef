"""What every source returns, and the few steps that all of them share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Raw:
    """N distinct examples before they are split: no two have the same content.

    modality: `text`, `image` or `image_text`.
    groups: [N] int64, domain of a document or label of an image: an index into `group_names`.
    keys: [N] uint64, all different: fingerprint of the content.
    description: one line for reports.   origin: where it is from and its licence, for model cards.
    documents: N texts (text).   prompts: N texts that these follow; none where there are no prompts.
    pixels: [N, C, H, W] uint8 (images).
    captions: N texts of the images where the source brings them; an empty one is not known.
    labelled: whether the groups of images are labels that a model can learn.
    """

    modality: Literal["text", "image", "image_text"]
    groups: np.ndarray
    group_names: tuple[str, ...]
    keys: np.ndarray
    description: str
    origin: str
    documents: list[str] = field(default_factory=list)
    pixels: np.ndarray | None = None
    captions: list[str] = field(default_factory=list)
    labelled: bool = True
    prompts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.groups)


def from_documents(
    documents: Sequence[str],
    groups: np.ndarray,
    group_names: Sequence[str],
    *,
    description: str,
    origin: str,
    limit: int | None,
    rng: np.random.Generator,
    prompts: Sequence[str] = (),
) -> Raw:
    """Text without blanks and duplicates, at most `limit` documents drawn evenly over the groups.

    groups: [N] int64. Groups that nothing is left of are dropped from the names.
    prompts: N texts; the same answer to another question is another document.
    """
    written = np.array([i for i, text in enumerate(documents) if text.strip()], dtype=np.int64)
    whole = [f"{prompts[i]}\0{documents[i]}" if prompts else documents[i] for i in written]
    keys = fingerprints([text.encode() for text in whole])
    index = written[first_of_each(keys)]
    index = index[draw_evenly(groups[index], limit, rng)]
    present, compact = np.unique(groups[index], return_inverse=True)
    return Raw(
        modality="text",
        groups=compact.astype(np.int64).reshape(-1),
        group_names=tuple(group_names[g] for g in present),
        keys=keys[np.searchsorted(written, index)],
        description=description,
        origin=origin,
        documents=[documents[i] for i in index],
        prompts=[prompts[i] for i in index] if prompts else [],
    )


def from_pixels(
    pixels: np.ndarray,
    groups: np.ndarray,
    group_names: Sequence[str],
    *,
    description: str,
    origin: str,
    captions: Sequence[str] = (),
    labelled: bool = True,
) -> Raw:
    """Images without duplicates. pixels: [N, C, H, W] uint8; groups: [N] int64 labels.
    captions: N texts; with them, images and texts.

    All labels keep their name and number, present or not: they are what a classifier answers.
    """
    keys = fingerprints([image.tobytes() for image in pixels])
    index = first_of_each(keys)
    return Raw(
        modality="image_text" if captions else "image",
        groups=groups[index].astype(np.int64),
        group_names=tuple(group_names),
        keys=keys[index],
        description=description,
        origin=origin,
        pixels=pixels[index],
        captions=[captions[i] for i in index] if captions else [],
        labelled=labelled,
    )


def fingerprints(contents: Sequence[bytes]) -> np.ndarray:
    """[N] uint64: the first 8 bytes of each content's BLAKE2b."""
    return np.frombuffer(b"".join(blake2b(c, digest_size=8).digest() for c in contents), dtype="<u8").astype(
        np.uint64
    )


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """[M] int64, ascending: where each distinct key occurs first."""
    return np.sort(np.unique(keys, return_index=True)[1]).astype(np.int64)


def draw_evenly(groups: np.ndarray, limit: int | None, rng: np.random.Generator) -> np.ndarray:
    """[min(N, limit)] int64, ascending: as many of each group as of any other while they last."""
    if limit is None or limit >= len(groups):
        return np.arange(len(groups), dtype=np.int64)
    order = rng.permutation(len(groups))
    by_group = order[np.argsort(groups[order], kind="stable")]
    sizes = np.unique(groups, return_counts=True)[1]
    # The k-th of every group comes before the (k+1)-th of any.
    turn = np.concatenate([np.arange(size) for size in sizes])
    tie = rng.permutation(len(groups))
    return np.sort(by_group[np.lexsort((tie, turn))[:limit]]).astype(np.int64)


def chunks(text: str, low: int = 1024, high: int = 2048) -> Iterator[str]:
    """Cut a text at blank lines into pieces of `low` to `high` characters; nothing is lost.

    A piece ends at the first blank line after `low`, else at the last line end before `high`; only
    a line longer than `high` is cut inside. The last piece of a text may be shorter than `low`.
    """
    block, size = "", 0
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), high):
            piece = line[start : start + high]
            if size + len(piece) > high:
                yield block
                block, size = "", 0
            block += piece
            size += len(piece)
        if size >= low and not line.strip():
            yield block
            block, size = "", 0
    if block:
        yield block
