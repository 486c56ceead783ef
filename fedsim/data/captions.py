"""Texts of image–text data: captions of labelled images, prompts, and the tokens of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedsim.config import DataConfig
from fedsim.data import tokenizers
from fedsim.data.sources.raw import Raw
from fedsim.errors import ConfigError

LEGACY_END = 2
"""CLIP models of that end-of-text answer at the largest token id instead, see transformers' CLIPTextModel."""


def say(template: str, label: str) -> str:
    return template.replace("{label}", label)


def of_labels(raw: Raw, templates: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The captions that there are, and a random template's for every labelled image without one."""
    drawn = rng.integers(len(templates), size=len(raw))
    own = raw.captions or [""] * len(raw)
    names = raw.group_names
    return [
        caption or (say(templates[t], names[g]) if raw.labelled and g >= 0 else "")
        for caption, t, g in zip(own, drawn, raw.groups, strict=True)
    ]


def prompts(raw: Raw, public: np.ndarray, data: DataConfig, rng: np.random.Generator) -> tuple[str, ...]:
    """What responses are about: every label in the words of the first template; without labels, some of
    the different captions of the proxy set (`public`: its positions).

    Raises ConfigError where there are fewer than two.
    """
    if raw.labelled:
        return tuple(say(data.templates[0], name) for name in raw.group_names)
    texts = sorted({raw.captions[i] for i in public} - {""})
    if len(texts) < 2:
        raise ConfigError(
            "data.caption_column", data.caption_column, "a proxy set with at least two captions"
        )
    chosen = np.sort(rng.permutation(len(texts))[: data.prompts])
    return tuple(texts[i] for i in chosen)


def tokenized(
    raw: Raw, public: np.ndarray, asked: Sequence[str], data: DataConfig
) -> tuple[str, int, np.ndarray, np.ndarray]:
    """(tokenizer.json, its end of text, captions [N, S] int32, prompts [K, S] int32).

    Only what is public shapes the tokenizer and S: captions of the proxy set, prompts, templates.
    """
    known = [raw.captions[i] for i in public if raw.captions[i]]
    if raw.labelled:
        known += [say(template, name) for template in data.templates for name in raw.group_names]
    known += asked
    if data.tokenizer is None:
        tokenizer, end = tokenizers.train_for_captions(known, data.vocabulary), 0
    else:
        tokenizer, end = tokenizers.load(data.tokenizer)
        if end == LEGACY_END:
            raise ConfigError("data.tokenizer", data.tokenizer, "one whose end of text is not token 2")
    window = min(data.window, tokenizers.longest(tokenizer, known, end))
    ids = tokenizers.encode_captions(tokenizer, [*asked, *raw.captions], window, end)
    return tokenizer, end, ids[len(asked) :], ids[: len(asked)]
