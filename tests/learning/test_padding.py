"""Of answers of different lengths only the answers count, not what fills their windows up."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedsim import data
from fedsim.learning import confidence
from fedsim.learning.judges import Entropy
from fedsim.loading import load
from fedsim.process import set_up
from fedsim.simulation import world
from fedsim.types import Examples

WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "cat",
    "dog",
    "cow",
    "hen",
    "fox",
]
WINDOW = 48


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(world, learner, proxy, own examples) of questions with answers of 1 to 24 words."""
    set_up(1)
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("told") / "asked.jsonl"
    rows = []
    for number in range(160):
        answer = " ".join(draw.choice(WORDS, int(draw.integers(1, 25))))
        rows.append({"ask": f"say {WORDS[number % 16]} {number}", "tell": answer, "of": "ab"[number % 2]})
    path.write_text("\n".join(map(json.dumps, rows)))
    training = {"steps": 2, "batch_size": 8}
    config = load(
        {
            "data": {
                "source": "files", "path": str(path), "modality": "text", "prompt_column": "ask",
                "text_column": "tell", "label_column": "of", "window": WINDOW, "vocabulary": 300,
            },
            "participants": {"count": 2, "models": ["pythia-tiny"], "training": training},
            "student": {"model": "pythia-tiny", "training": training},
            "methods": ["solo"],
        }
    )  # fmt: skip
    federation = data.build(data.plan(config))
    ours = world(config, federation)
    learner = ours.specialist("pythia-tiny", None, config.participants.training)
    return ours, learner, federation.public.proxy, federation.shards[0].train


def filled_up(examples: Examples, token: int) -> Examples:
    """The same with another token as padding."""
    behind = np.arange(WINDOW) >= examples.arrays["length"][:, None]
    assert behind.any()
    ids = np.where(behind, token, examples.arrays["input_ids"])
    return replace(examples, arrays={**examples.arrays, "input_ids": ids})


def test_a_claim_is_the_mean_over_the_answer(told):
    _, learner, proxy, _ = told
    loss, _, rows = learner.marks(proxy)
    assert len(set(rows)) > 5
    np.testing.assert_allclose(learner.claims(proxy, np.arange(len(proxy))), loss / rows, rtol=1e-5)


def test_padding_changes_nothing_that_is_said(told):
    ours, learner, proxy, own = told
    everything, tokens = np.arange(len(proxy)), ours.interface.classes
    other, others_own = filled_up(proxy, 7), filled_up(own, 9)
    for judge in (confidence.TaskLoss(), Entropy(2.0)):
        said = learner.claims(proxy, everything, judge)
        np.testing.assert_allclose(learner.claims(other, everything, judge), said, rtol=1e-6)
    states = [learner.hidden(e, everything, [0.5, 1.0]) for e in (proxy, other)]
    np.testing.assert_allclose(states[0], states[1], rtol=1e-4, atol=1e-6)
    rare = confidence.rarity(own, proxy, tokens)
    np.testing.assert_allclose(confidence.rarity(others_own, other, tokens), rare, rtol=1e-12)
    likely = confidence.domains(own, proxy, tokens, 2)
    np.testing.assert_allclose(confidence.domains(others_own, other, tokens, 2), likely, rtol=1e-9)


def test_a_hidden_state_is_the_mean_over_what_is_no_padding(told):
    _, learner, proxy, _ = told
    some = np.arange(4)
    content = learner.modality.content(proxy, some, learner.engine.device)
    states = np.random.default_rng(0).normal(size=(4, WINDOW - 1, 3)).astype(np.float32)
    found = learner.modality.pooled(learner.engine.model.lm_head.weight.new_tensor(states), content)
    for row, length, state in zip(found, proxy.arrays["length"], states, strict=False):
        np.testing.assert_allclose(row, state[: min(length, WINDOW - 1)].mean(0), rtol=1e-4, atol=1e-6)


def test_who_knows_a_domain_by_long_texts_still_knows_it(told):
    """Counting padding, whoever has short texts would have seen the most of anything short."""

    def texts(low: int, length: int, number: int = 60) -> Examples:
        ids = np.zeros((number, WINDOW), np.int64)
        ids[:, :length] = np.random.default_rng(low + length).integers(low, low + 40, (number, length))
        arrays = {"input_ids": ids, "prompt": np.ones(number, int), "length": np.full(number, length)}
        return Examples(arrays, np.full(number, low > 50, np.int64), np.zeros(number, np.uint64))

    proxy = texts(10, 6)
    knows, other = (confidence.rarity(own, proxy, 100) for own in (texts(10, 44), texts(60, 5)))
    assert (knows < other).all()
