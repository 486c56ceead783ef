"""Multiple-choice questions on tasks that nobody trained for, with and without examples (zero- and few-shot).

Items are lines of JSON: `question`, `choices` (at least two texts) and `answer` (which of them, from 0). As
in the Language Model Evaluation Harness (Gao et al.; EleutherAI), a model chooses the continuation that it
holds likeliest behind the question:

    prompt = example question + " " + its right choice + "\n\n" + … + question
    accuracy              argmax_c log p(" " + c | prompt) is the answer
    accuracy_normalised   the same with log p ÷ bytes of c: long choices are unlikely for their length alone

The first items of a file are the examples for all the others, which are the same questions whatever the
number of examples. A prompt that is longer than the window loses its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.data import tokenizers
from fedsim.evaluation import lines
from fedsim.types import Examples

if TYPE_CHECKING:
    from fedsim.learning.learner import Learner


@dataclass(frozen=True)
class Item:
    question: str
    choices: tuple[str, ...]
    answer: int


def parse(text: str) -> list[Item]:
    """Items of lines of JSON. Raises ValueError that names the line and what is wrong with it."""
    return lines.parse(text, _item)


def answered(
    learner: Learner, items: Sequence[Item], shots: int, tokenizer: str, window: int, reserved: int
) -> dict[str, float]:
    """Both accuracies with `shots` examples.

    reserved: items at the beginning that are no questions, at least `shots`.   tokenizer: text of its
    `tokenizer.json`.   window: tokens that the model sees at once.
    """
    asked = items[reserved:]
    examples = windows(asked, items[:shots], tokenizer, window)
    lengths = examples.arrays["length"] - examples.arrays["prompt"]
    ends = np.cumsum(lengths)
    scores = learner.score_tokens(examples)[:, 0].astype(np.float64)
    of_choice = np.add.reduceat(scores, ends - lengths)
    sizes = np.array([len(choice.encode()) for item in asked for choice in item.choices])
    right = np.array([item.answer for item in asked])
    splits = np.cumsum([len(item.choices) for item in asked])[:-1]
    found = {}
    for name, values in (("accuracy", of_choice), ("accuracy_normalised", of_choice / sizes)):
        chosen = np.array([int(part.argmax()) for part in np.split(values, splits)])
        found[name] = float((chosen == right).mean())
    return found


def windows(items: Sequence[Item], shots: Sequence[Item], tokenizer: str, window: int) -> Examples:
    """Every question with every choice: the choice's tokens are asked for, what is before them is given.

    Prompt and choice are encoded apart, so that no token reaches over the border. At least one token of the
    prompt is left, and of a choice that is longer than the rest of the window its beginning.
    """
    before = "".join(f"{item.question} {item.choices[item.answer]}\n\n" for item in shots)
    prompts = [ids[:-1] for ids in tokenizers.encode(tokenizer, [before + item.question for item in items])]
    choices = [f" {choice}" for item in items for choice in item.choices]
    encoded = [ids[:-1][: window - 1] for ids in tokenizers.encode(tokenizer, choices)]
    owner = np.repeat(np.arange(len(items)), [len(item.choices) for item in items])
    ids = np.zeros((len(encoded), window), np.int32)
    given, ends = np.zeros(len(encoded), np.int64), np.zeros(len(encoded), np.int64)
    for row, (item, choice) in enumerate(zip(owner, encoded, strict=True)):
        prompt = prompts[item][-(window - len(choice)) :]
        given[row], ends[row] = len(prompt), len(prompt) + len(choice)
        ids[row, : ends[row]] = np.concatenate([prompt, choice])
    nothing = np.zeros(len(encoded), np.int64)
    return Examples({"input_ids": ids, "prompt": given, "length": ends}, nothing, nothing.astype(np.uint64))


def _item(row: Mapping[str, Any]) -> Item:
    choices, answer = tuple(map(str, row["choices"])), int(row["answer"])
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise ValueError("expected at least two choices, none of them empty")
    if not 0 <= answer < len(choices):
        raise ValueError(f"answer {answer}; expected one of 0 … {len(choices) - 1}")
    if not str(row["question"]).strip():
        raise ValueError("expected a question")
    return Item(str(row["question"]), choices, answer)
