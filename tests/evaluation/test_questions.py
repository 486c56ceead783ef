"""Multiple choice: log-likelihoods against transformers' own, prompts by hand, both ways to choose."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedsim import data
from fedsim.data import tokenizers
from fedsim.evaluation.questions import Item, answered, parse, windows
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world

ITEMS = [
    Item("import os means to", ("load a module", "save", "a file"), 0),
    Item("a list is", ("ordered", "a number of keys and of values that belong to them"), 0),
    Item("None is", ("a number", "nothing"), 1),
    Item("def begins a", ("function", "class", "loop"), 0),
    Item("while begins a", ("function", "class", "loop"), 2),
]


@pytest.fixture(scope="module")
def play():
    set_up(1)
    config = load({
        "data": {"source": "stdlib", "max_examples": 120, "vocabulary": 300, "window": 48},
        "participants": {"models": ["llama-tiny"], "count": 2}, "student": {"model": "llama-tiny"},
    })  # fmt: skip
    made = world(config, data.build(data.plan(config)))
    return made, made.specialist("llama-tiny", None, config.participants.training)


def ids(tokenizer: str, text: str) -> list[int]:
    return tokenizers.encode(tokenizer, [text])[0][:-1].tolist()


def likelihood(model, prompt: list[int], choice: list[int], window: int) -> float:
    """log p(choice | prompt), one by one and without padding, as the harness cuts it."""
    whole = (prompt + choice)[-window:]
    with torch.no_grad():
        log_probs = F.log_softmax(model(input_ids=torch.tensor([whole])).logits[0].double(), -1)
    return sum(
        float(log_probs[place - 1, whole[place]]) for place in range(len(whole) - len(choice), len(whole))
    )


@pytest.mark.parametrize("shots", [0, 2])
def test_the_likeliest_choice_is_the_answer(play, shots: int):
    made, learner = play
    found = answered(learner, ITEMS, shots, made.tokenizer, 48, reserved=2)
    before = "import os means to load a module\n\na list is ordered\n\n" if shots else ""
    plain, normalised = [], []
    for item in ITEMS[2:]:
        prompt = ids(made.tokenizer, before + item.question)
        scores = [
            likelihood(learner.engine.model.eval(), prompt, ids(made.tokenizer, f" {c}"), 48)
            for c in item.choices
        ]
        plain.append(int(np.argmax(scores)) == item.answer)
        sizes = [len(choice) for choice in item.choices]
        normalised.append(int(np.argmax(np.array(scores) / sizes)) == item.answer)
    assert found == {"accuracy": np.mean(plain), "accuracy_normalised": np.mean(normalised)}


def test_scores_are_those_of_the_choices_alone(play):
    made, learner = play
    examples = windows(ITEMS[2:], ITEMS[:2], made.tokenizer, 48)
    given, ends = examples.arrays["prompt"], examples.arrays["length"]
    scores = np.split(learner.score_tokens(examples)[:, 0], np.cumsum(ends - given)[:-1])
    before, row = "import os means to load a module\n\na list is ordered\n\n", 0
    for item in ITEMS[2:]:
        for choice in item.choices:
            prompt, ended = ids(made.tokenizer, before + item.question), ids(made.tokenizer, f" {choice}")
            expected = likelihood(learner.engine.model.eval(), prompt, ended, 48)
            assert scores[row].sum() == pytest.approx(expected, abs=1e-3)
            row += 1
    assert row == len(scores)


def test_a_long_prompt_loses_its_beginning(play):
    made, _ = play
    (long,) = [Item("x " * 200 + "end", ("a", "b c"), 0)]
    found = windows([long], [], made.tokenizer, 48)
    whole = ids(made.tokenizer, long.question)
    for row, choice in enumerate(long.choices):
        tail = ids(made.tokenizer, f" {choice}")
        assert found.arrays["input_ids"][row].tolist() == whole[len(tail) - 48 :] + tail
        assert found.arrays["length"][row] == 48 and found.arrays["prompt"][row] == 48 - len(tail)


def test_a_choice_that_fills_the_window_loses_its_end(play):
    made, _ = play
    found = windows([Item("why", ("y " * 300, "z"), 1)], [], made.tokenizer, 48)
    assert found.arrays["prompt"][0] == 1 and found.arrays["length"][0] == 48


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answer": 2}, "line 2: answer 2; expected one of 0 … 1"),
        ({"choices": ["a"]}, "line 2: expected at least two choices"),
        ({"question": ""}, "line 2: expected a question"),
        ({"answer": "first"}, "line 2: invalid literal"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(change, expected):
    row = {"question": "q", "choices": ["a", "b"], "answer": 1}
    assert parse(json.dumps(row)) == [Item("q", ("a", "b"), 1)]
    with pytest.raises(ValueError, match=expected):
        parse(json.dumps(row) + "\n" + json.dumps({**row, **change}))
    with pytest.raises(ValueError, match="line 1: no 'choices'"):
        parse('{"question": "q"}')
