"""A proxy set from a source of its own, beside the data that is split and partitioned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.raw import Raw, fingerprints, first_of_each
from fedsim.errors import ConfigError

UNKNOWN = -1
"""The group of a proxy example: its domain or label is not one of the other data's, or not known."""


def join(raw: Raw, other: Raw, data: DataConfig) -> tuple[Raw, np.ndarray]:
    """All examples of both, and the positions of the proxy set among them, ascending int64.

    What also stands in `raw` is left out of the proxy set, so that splits stay disjoint by content.
    Raises ConfigError where images don't fit together, or nothing is left.
    """
    if raw.pixels is not None:
        other = fitted(other, raw.pixels)
    kept = np.flatnonzero(~np.isin(other.keys, raw.keys))
    kept = kept[first_of_each(other.keys[kept])]  # pictures may have become equal by losing their colours
    if not len(kept):
        raise ConfigError("data.proxy.path", other.description, "examples that the other data doesn't hold")
    groups = np.full(len(kept), UNKNOWN, dtype=np.int64)
    if raw.modality != "text" and data.proxy_labelled:
        groups = _renumbered(other, raw)[kept]
    if raw.prompts and not other.prompts:
        raise ConfigError("data.proxy.prompt_column", data.prompt_column, "a table of its own with prompts")
    if other.prompts and not raw.prompts:
        expected = "nothing, as the other data has none: its windows would be learnt without their prompts"
        raise ConfigError("data.proxy.prompt_column", "set", expected)
    joined = replace(
        raw,
        groups=np.concatenate([raw.groups, groups]),
        keys=np.concatenate([raw.keys, other.keys[kept]]),
        description=f"{raw.description}; proxy set: {other.description}",
        origin=f"{raw.origin}; proxy set: {other.origin}",
        documents=raw.documents + [other.documents[i] for i in kept] if raw.documents else [],
        prompts=raw.prompts + [other.prompts[i] for i in kept] if raw.prompts else [],
        captions=_captions(raw) + [_captions(other)[i] for i in kept],
        pixels=None if raw.pixels is None else np.concatenate([raw.pixels, _pixels(other)[kept]]),
    )
    return joined, np.arange(len(raw), len(joined), dtype=np.int64)


def fitted(other: Raw, like: np.ndarray) -> Raw:
    """With as many channels as the other images; keys are of the pixels as they are used."""
    pixels = _pixels(other)
    if pixels.shape[2:] != like.shape[2:]:
        sizes = " and ".join(f"{p.shape[3]}×{p.shape[2]}" for p in (like, pixels))
        raise ConfigError("data.image_size", None, f"pixels a side: data and proxy set differ ({sizes})")
    if pixels.shape[1] == like.shape[1]:
        return other
    if like.shape[1] == 3:
        pixels = np.repeat(pixels, 3, axis=1)
    else:  # luma of ITU-R 601, as Pillow's
        luma = np.array([0.299, 0.587, 0.114], np.float32)
        pixels = np.rint(np.einsum("nchw,c->nhw", pixels, luma))[:, None].astype(np.uint8)
    return replace(other, pixels=pixels, keys=fingerprints([image.tobytes() for image in pixels]))


def _renumbered(other: Raw, raw: Raw) -> np.ndarray:
    """The labels of `other` by the numbers that their names have in `raw`."""
    if not other.labelled:
        raise ConfigError("data.proxy_labelled", True, "false: the proxy set's own source has no labels")
    missing = sorted(set(other.group_names) - set(raw.group_names))
    if missing:
        raise ConfigError("data.proxy.label_names", missing, "names of labels that the other data has")
    number = np.array([raw.group_names.index(name) for name in other.group_names], dtype=np.int64)
    return np.asarray(number[other.groups])


def _captions(raw: Raw) -> list[str]:
    return raw.captions or [""] * len(raw)


def _pixels(raw: Raw) -> np.ndarray:
    assert raw.pixels is not None
    return raw.pixels
