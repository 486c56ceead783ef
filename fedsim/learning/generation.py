"""Generate sequences in batches, with a cache of keys and values.

The random numbers come as a table, one for each sequence and step, so that a sequence does not depend on
which others are generated beside it; by the inverse of the cumulative distribution each decides one token.

Rows stand at the same position at any time and no prompt is padded: as long as a row's prompt goes on, its
next token is given. So no model needs a mask or positions of its own.

Legend: N sequences, B of them at once, S window, T steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.modalities.base import chunks

BATCH = 128
"""Sequences at once."""


@torch.no_grad()
def generate(
    model: Any,
    ids_NS: np.ndarray,
    prompts: np.ndarray,
    room: np.ndarray,
    end: int,
    uniform_NT: np.ndarray | None,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Continue each row's prompt; returns (offsets [N + 1] int64, tokens [M] int32).

    prompts: [N] ≥ 1, tokens of each row that are given.   room: [N] ≥ 1, most tokens to generate; a row stops
    after `end`.   uniform_NT: in 0 … 1, T ≥ max(room); None takes the likeliest token at every step.
    """
    model.eval()
    found: list[np.ndarray] = [np.zeros(0, np.int64)] * len(prompts)
    # Prompts of about one length together: the longest one's is waited for.
    order = np.argsort(prompts, kind="stable")
    for part in chunks(len(order), BATCH):
        index = order[part]
        uniform = None if uniform_NT is None else torch.from_numpy(uniform_NT[index]).to(device)
        ids, starts, most = (
            torch.from_numpy(a[index].astype(np.int64)).to(device) for a in (ids_NS, prompts, room)
        )
        each = _batch(model, ids, starts, most, end, uniform)
        for row, tokens in zip(index, each, strict=True):
            found[row] = tokens
    offsets = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(tokens) for tokens in found], out=offsets[1:])
    return offsets, np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int32)


def _batch(
    model: Any, ids_BS: Tensor, prompts: Tensor, room: Tensor, end: int, uniform_BT: Tensor | None
) -> list[np.ndarray]:
    ids, row = ids_BS.clone(), torch.arange(len(ids_BS), device=ids_BS.device)
    made = torch.zeros_like(prompts)
    done = torch.zeros_like(prompts, dtype=torch.bool)
    place, cache, given = int(prompts.min()), None, ids[:, : int(prompts.min())]
    while True:
        outputs = model(input_ids=given, past_key_values=cache, use_cache=True)
        logits_BK, cache = outputs.logits[:, -1].float(), outputs.past_key_values
        if uniform_BT is None:
            drawn = logits_BK.argmax(-1)
        else:
            drawn = _draw(logits_BK, uniform_BT[row, (place - prompts).clamp(0, uniform_BT.shape[1] - 1)])
        prompting = place < prompts
        token = torch.where(prompting, ids[:, place], torch.where(done, end, drawn))
        ids[:, place] = token
        fresh = ~prompting & ~done
        made += fresh
        done |= fresh & ((token == end) | (made == room))
        place += 1
        if bool(done.all()):
            break
        given = token[:, None]
    table, starts, lengths = ids.cpu().numpy(), prompts.tolist(), made.tolist()
    return [table[i, s : s + n] for i, (s, n) in enumerate(zip(starts, lengths, strict=True))]


def _draw(logits_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """One class of each row by its probability, [B]."""
    cumulative = torch.softmax(logits_BK.double(), -1).cumsum(-1)
    # Rounding must not leave a sliver above the last class that has any probability.
    cumulative = cumulative / cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform_B[:, None].double(), right=True).squeeze(-1)
