"""Text → tokens → windows of one length.

The tokenizer is a byte-level BPE, so that every text has tokens and comes back from them unchanged.
It is trained on the proxy set only: what is public may shape it, what is private may not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import ConfigError
from fedsim.types import Examples

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document; id 0 in a tokenizer trained here."""

USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>", "[SEP]")
"""Looked for in a ready tokenizer that doesn't say which its end-of-text is."""


def train(documents: Sequence[str], vocabulary: int) -> str:
    """A byte-level BPE of at most `vocabulary` tokens as the text of a `tokenizer.json`.

    Ids: 0 the end of text, 1–256 the bytes, then merges; fewer than asked where the text has no
    more pairs to merge. The same documents give the same text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return str(tokenizer.to_str())


def train_for_captions(texts: Sequence[str], vocabulary: int) -> str:
    """As `train`, but whoever encodes with it gets the end of text as well: a dual encoder answers there."""
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(train(texts, vocabulary))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)]
    )
    return str(tokenizer.to_str())


def load(folder: str) -> tuple[str, int]:
    """(text of `tokenizer.json`, id of its end-of-text) of a ready tokenizer's folder.

    Raises ConfigError where there is none, it can't be read, or it has no end-of-text token.
    """
    from tokenizers import Tokenizer

    root = Path(folder).expanduser()
    try:
        text = (root / "tokenizer.json").read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
    except OSError:
        raise ConfigError("data.tokenizer", folder, "a folder with a tokenizer.json") from None
    except Exception as error:  # the library raises bare Exception
        raise ConfigError("data.tokenizer", folder, f"a tokenizer.json that can be read ({error})") from error
    declared = (_declared_end(root / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    for token in (*declared, *USUAL_ENDS):
        end = tokenizer.token_to_id(token) if token else None
        if end is not None:
            return text, int(end)
    raise ConfigError("data.tokenizer", folder, "a tokenizer whose tokenizer_config.json names an eos_token")


def size(tokenizer_json: str) -> int:
    """Classes a language model over this tokenizer has: its largest id + 1."""
    return 1 + int(max(_reader(tokenizer_json).get_vocab(with_added_tokens=True).values()))


def encode(tokenizer_json: str, documents: Sequence[str], end_of_text: int = 0) -> list[np.ndarray]:
    """Each document's token ids, int32 [length + 1]: the end of text comes after every document.

    A document that spells the end of text out is encoded as the letters it is.
    """
    encoded = _reader(tokenizer_json).encode_batch_fast(list(documents), add_special_tokens=False)
    return [np.array([*e.ids, end_of_text], dtype=np.int32) for e in encoded]


def encode_captions(
    tokenizer_json: str, captions: Sequence[str], window: int, end_of_text: int = 0
) -> np.ndarray:
    """[N, window] int32: each caption with the tokens its tokenizer puts around it, cut to `window`, its end
    kept, and filled up with ends."""
    rows = np.full((len(captions), window), end_of_text, dtype=np.int32)
    for row, encoded in zip(rows, _reader(tokenizer_json).encode_batch_fast(list(captions)), strict=True):
        ids = [i for i in encoded.ids if i != end_of_text][: window - 1]
        row[: len(ids)] = ids
    return rows


def longest(tokenizer_json: str, captions: Sequence[str], end_of_text: int = 0) -> int:
    """Tokens of the longest caption, its end included."""
    encoded = _reader(tokenizer_json).encode_batch_fast(list(captions))
    return 1 + int(max(sum(i != end_of_text for i in e.ids) for e in encoded))


def pack(tokens: Sequence[np.ndarray], groups: np.ndarray, keys: np.ndarray, window: int) -> Examples:
    """Windows of exactly `window` tokens: `input_ids` [N, window] int32, groups and keys [N].

    Documents of one group are joined in order and cut; a window may so hold the end of one document
    and the start of the next. The remainder of a group, less than one window, is dropped: padding
    would need a mask in every model, loss, response and byte count for a fraction of a percent of
    the text. Groups that don't fill a single window are joined with each other, so that a
    participant with little of everything keeps its data.

    A window's group and key are those of the document in which it starts.
    """
    lengths = np.array([len(t) for t in tokens], dtype=np.int64)
    totals = np.bincount(groups, weights=lengths) if len(groups) else np.zeros(0)
    streams = [np.flatnonzero(groups == g) for g in np.flatnonzero(totals >= window)]
    small = np.flatnonzero(totals[groups] < window) if len(groups) else np.zeros(0, dtype=np.int64)
    streams.append(small[np.argsort(groups[small], kind="stable")])
    rows, starts = [np.zeros((0, window), dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
    for stream in streams:
        ends = np.cumsum(lengths[stream])
        count = int(ends[-1]) // window if len(ends) else 0
        if count:
            joined = np.concatenate([tokens[int(i)] for i in stream])
            rows.append(joined[: count * window].reshape(count, window))
            starts.append(stream[np.searchsorted(ends, np.arange(count) * window, side="right")])
    first = np.concatenate(starts)
    return Examples({"input_ids": np.concatenate(rows)}, groups[first], keys[first])


def answer(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], groups: np.ndarray, keys: np.ndarray, window: int
) -> Examples:
    """One window for each pair of a prompt and what follows: `input_ids` [N, window], padded with zeros, and
    `prompt` and `length` [N] int64: where the prompt ends, and the text. Pairs that don't fit are left out.
    """
    fit = np.array([k for k, (p, a) in enumerate(pairs) if len(p) + len(a) <= window], dtype=np.int64)
    rows = np.zeros((len(fit), window), dtype=np.int32)
    for row, k in zip(rows, fit, strict=True):
        text = np.concatenate(pairs[k])
        row[: len(text)] = text
    prompts = np.array([len(pairs[k][0]) for k in fit], dtype=np.int64)
    ends = np.array([sum(map(len, pairs[k])) for k in fit], dtype=np.int64)
    return Examples({"input_ids": rows, "prompt": prompts, "length": ends}, groups[fit], keys[fit])


def encode_windows(
    tokenizer_json: str,
    documents: Sequence[str],
    groups: np.ndarray,
    keys: np.ndarray,
    window: int,
    end_of_text: int = 0,
) -> Examples:
    """`encode`, then `pack`. groups: [N] int64 and keys: [N] uint64 of the N documents."""
    return pack(encode(tokenizer_json, documents, end_of_text), groups, keys, window)


def decode(tokenizer_json: str, rows: Sequence[np.ndarray], end_of_text: int = 0) -> list[str]:
    """The texts of rows of token ids, the end of text left out."""
    reader = _reader(tokenizer_json)
    return [str(reader.decode([int(i) for i in row if i != end_of_text])) for row in rows]


def _reader(tokenizer_json: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # not part of the JSON, so set at every use
    return tokenizer


def _declared_end(path: Path) -> str | None:
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
