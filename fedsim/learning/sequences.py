"""Prompts and what models make of them: between windows of tokens and `types.Sequences`.

Legend: N sequences, M generated tokens in all of them, S window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.types import Examples, Sequences

NOTHING = Sequences(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32))


def prompt_lengths(examples: Examples, tokens: int) -> np.ndarray:
    """Tokens of each example's prompt, [N] int64: its own where it has one, else its first `tokens`."""
    if "prompt" in examples.arrays:
        return examples.arrays["prompt"].astype(np.int64)
    return np.full(len(examples), tokens, np.int64)


def room(examples: Examples, tokens: int, most: int) -> np.ndarray:
    """How many tokens may follow each prompt, [N] int64: what the window leaves, and at most `most`."""
    window = examples.arrays["input_ids"].shape[1]
    left: np.ndarray = np.minimum(window - prompt_lengths(examples, tokens), most)
    return left


def continued(examples: Examples, tokens: int, offsets: np.ndarray, generated: np.ndarray) -> Examples:
    """The examples with other continuations of their prompts; what is behind these is padding.

    offsets: [N + 1], generated: [M], one continuation for each example.
    """
    prompts = prompt_lengths(examples, tokens)
    ends = prompts + np.diff(offsets)
    ids = examples.arrays["input_ids"]
    column = np.arange(ids.shape[1])
    fresh = np.where(column < prompts[:, None], ids, 0).astype(ids.dtype)
    fresh[(column >= prompts[:, None]) & (column < ends[:, None])] = generated
    arrays = {"input_ids": fresh, "prompt": prompts, "length": ends}
    return Examples(arrays, examples.groups, examples.keys)


def references(examples: Examples, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(offsets [N + 1], tokens [M]): what really follows the prompts."""
    prompts, ids = prompt_lengths(examples, tokens), examples.arrays["input_ids"]
    ends = examples.arrays.get("length", np.full(len(examples), ids.shape[1]))
    column = np.arange(ids.shape[1])
    known = (column >= prompts[:, None]) & (column < ends[:, None])
    offsets = np.zeros(len(examples) + 1, np.int64)
    np.cumsum(known.sum(1), out=offsets[1:])
    return offsets, ids[known]


def merged(parts: Sequence[Sequences]) -> Sequences:
    """Sequences of distinct samples as one, samples ascending."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NOTHING
    samples = np.concatenate([part.samples for part in parts])
    each = [tokens for part in parts for tokens in np.split(part.tokens, part.offsets[1:-1])]
    order = np.argsort(samples)
    lengths = np.array([len(each[i]) for i in order])
    return Sequences(
        samples[order],
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([each[i] for i in order]).astype(np.int32),
    )
