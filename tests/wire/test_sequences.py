"""Messages of sequences: there and back, how large, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim.errors import MessageError
from fedsim.types import Responses, Rollouts, Sequences
from fedsim.wire import Expectation, decode, encode, memory_limit
from fedsim.wire.quantise import sample
from fedsim.wire.sequences import LOWEST, STEP

rng = np.random.default_rng(0)
CLASSES, LONGEST, SCORED, LEVELS = 50, 12, 20, 7


def some(number: int) -> Sequences:
    lengths = rng.integers(1, LONGEST + 1, number)
    samples = np.sort(rng.choice(100, number, replace=False))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(samples, offsets, rng.integers(0, CLASSES, lengths.sum()).astype(np.int32))


def rows(number: int) -> Responses:
    lengths, ids, counts = sample(rng.dirichlet(np.full(CLASSES, 0.1), number), LEVELS, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Responses(np.arange(number), 1, CLASSES, LEVELS, offsets, ids, counts)


SEQUENCES = some(6)
SCORES = -rng.exponential(3, (200, 3)).astype(np.float32)
DRAWN = rng.integers(0, CLASSES, (len(SEQUENCES.tokens), 2)).astype(np.int32)
EXPECT = Expectation(
    "sequences",
    "up",
    3,
    4,
    classes=CLASSES,
    positions=LONGEST,
    levels=LEVELS,
    proxy_size=100,
    samples=SEQUENCES.samples,
    size=SCORED,
    draws=2,
)
LIMIT = memory_limit(EXPECT)


def there_and_back(rollouts: Rollouts, expect: Expectation = EXPECT) -> Rollouts:
    data = encode(rollouts, direction="up", round=3, sender=4, samples_known=True).data
    found = decode(data, expect, LIMIT)
    assert isinstance(found, Rollouts)
    return found


def test_everything_comes_back_and_scores_to_half_a_step():
    sent = Rollouts(SEQUENCES, DRAWN, SCORES, rows(len(SCORES)), np.array([0.5, 2, 3], np.float32))
    found = there_and_back(sent)
    for name in ("samples", "offsets", "tokens"):
        assert np.array_equal(getattr(found.sequences, name), getattr(SEQUENCES, name)), name
    assert np.array_equal(found.drawn, DRAWN)
    assert np.abs(found.scores - SCORES).max() <= STEP / 2 + 1e-6
    for name in ("offsets", "ids", "counts"):
        assert np.array_equal(getattr(found.rows, name), getattr(sent.rows, name)), name
    assert np.array_equal(found.claims, sent.claims)


def test_scores_alone_take_less_than_two_bytes_a_token():
    scores = -rng.exponential(3, (5000, 1)).astype(np.float32)
    data = encode(Rollouts(scores=scores), direction="up", round=1, sender=0, samples_known=True).data
    assert len(data) < 2 * len(scores)


def test_nothing_asked_and_nothing_made_is_a_message_too():
    nobody = replace(EXPECT, samples=np.zeros(0, np.int64))
    assert there_and_back(Rollouts(), nobody) == Rollouts()


def test_an_improbable_token_is_as_improbable_as_can_be_said():
    found = there_and_back(
        Rollouts(SEQUENCES, scores=np.array([[-1e6], [0.0]], np.float32)), replace(EXPECT, levels=0)
    )
    assert found.scores.ravel().tolist() == [-LOWEST, 0]


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_a_score_that_is_no_number_is_not_sent(score: float):
    with pytest.raises(ValueError, match="finite"):
        encode(Rollouts(scores=np.array([[score]])), direction="up", round=1, sender=0, samples_known=True)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"classes": int(SEQUENCES.tokens.max())}, "unexpected"),
        ({"positions": int(SEQUENCES.lengths.max()) - 1}, "unexpected"),
        ({"samples": SEQUENCES.samples[1:]}, "unexpected"),
        ({"samples": None}, "unexpected"),
        ({"levels": 0}, "unexpected"),
        ({"draws": 1}, "unexpected"),
        ({"levels": LEVELS + 1}, "unexpected"),
        ({"kind": "responses"}, "unexpected"),
    ],
)
def test_what_contradicts_the_receiver_is_refused(changed: dict, reason: str):
    sent = Rollouts(SEQUENCES, DRAWN, SCORES, rows(len(SCORES)))
    with pytest.raises(MessageError) as refused:
        there_and_back(sent, replace(EXPECT, **changed))
    assert refused.value.reason == reason


def test_a_declaration_beyond_the_limit_is_refused_before_it_is_read():
    data = encode(
        Rollouts(scores=np.zeros((10_000, 1), np.float32)),
        direction="up",
        round=3,
        sender=4,
        samples_known=True,
    ).data
    with pytest.raises(MessageError) as refused:
        decode(data, replace(EXPECT, samples=np.zeros(0, np.int64)), 4096)
    assert refused.value.reason == "oversized"
