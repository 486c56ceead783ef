"""How good generated text is: against what was really written, and by itself.

    rouge_l      mean F of the longest common subsequence of words with the reference (Lin 2004; the
                 `rouge-score` library, stemmed), 0 … 1
    bleu         of the corpus (Papineni et al. 2002; the `sacrebleu` library's defaults: tokens as in mteval
                 13a, up to four of them, exponential smoothing), 0 … 100
    distinct_1   different words, or pairs of words, among all that were generated (Li et al.,
    distinct_2   arXiv 1510.03055), 0 … 1
    length       mean number of generated tokens

    excess_error_l   exposure bias: how much larger a student's error is, over the first l tokens, after
                 beginnings of its own than after a teacher's (Arora et al., arXiv 2204.01171, equation 11,
                 with the reverse KL as the error); 0.1 is 10 %

Text is sampled at temperature 1, as its model would write it, with the same random numbers in every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedsim.data import tokenizers
from fedsim.learning.sequences import prompt_lengths, references, room
from fedsim.types import COORDINATOR, Examples

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner
    from fedsim.world import World


def generated(world: World, learner: Learner, examples: Examples) -> dict[str, float]:
    """The measures above on as many prompts as the config asks for, evenly chosen."""
    assert world.tokenizer is not None
    asked, end = world.config.evaluation, world.interface.end_of_text
    number = min(asked.generate, len(examples))
    some = examples.take(np.arange(number) * len(examples) // number)
    space = room(some, asked.prompt, asked.longest)
    key = (world.seed, 0, COORDINATOR, "evaluate generation")
    prompts = prompt_lengths(some, asked.prompt)
    offsets, tokens = learner.generate(some, prompts, space, end=end, key=key)
    written = tokenizers.decode(world.tokenizer, _split(tokens, offsets), end)
    offsets_of, of_reference = references(some, asked.prompt)
    expected = [
        _writable(row[:most], end) for row, most in zip(_split(of_reference, offsets_of), space, strict=True)
    ]
    right = tokenizers.decode(world.tokenizer, expected, end)
    return {
        "rouge_l": rouge_l(written, right),
        "bleu": bleu(written, right),
        "distinct_1": distinct(written, 1),
        "distinct_2": distinct(written, 2),
        "length": len(tokens) / number,
    }


def excess_error(error: np.ndarray, offsets: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """error: [M], of the student at every token of N sequences.   own: [N] bool, whether it wrote them.

    For l = 4, 8, 16 … up to the longest sequence; nothing where only one side wrote any.
    """
    lengths = np.diff(offsets)
    place, mine = np.arange(len(error)) - np.repeat(offsets[:-1], lengths), np.repeat(own, lengths)
    if own.all() or not own.any():
        return {}
    found, reach = {}, 4
    while reach <= lengths.max():
        near = place < reach
        found[f"excess_error_{reach}"] = float(error[near & mine].mean() / error[near & ~mine].mean() - 1)
        reach *= 2
    return found


def rouge_l(written: Sequence[str], expected: Sequence[str]) -> float:
    """Mean F over the pairs."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    found = [scorer.score(e, w)["rougeL"].fmeasure for w, e in zip(written, expected, strict=True)]
    return float(np.mean(found))


def bleu(written: Sequence[str], expected: Sequence[str]) -> float:
    """Of all pairs together, 0 … 100."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(written), [list(expected)]).score)


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words among all of the texts; 0 where there are none."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _writable(reference: np.ndarray, end: int) -> np.ndarray:
    """As much of a reference as could have been written: up to the end of its text."""
    ends = np.flatnonzero(reference == end)
    return reference[: ends[0] + 1] if len(ends) else reference


def _split(values: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return np.split(values, offsets[1:-1])
