"""Numbers as people read them."""

import math

import pytest

from analysis import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (1_234_000, "1.23 MB"),
        (69_600_000, "69.6 MB"),
        (999_999, "1.00 MB"),
        (5e15, "5.00 PB"),
        (5e18, "5,000 PB"),
        (math.nan, "–"),
    ],
)
def test_bytes(count, text):
    assert units.bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.012, "12.0 ms"), (25, "25.0 s"), (754, "12.6 min"), (8000, "2.22 h"), (3e5, "3.47 days")],
)
def test_seconds(seconds, text):
    assert units.seconds_text(seconds) == text


def test_scores_and_ratios():
    assert units.score_text(0.9123, "accuracy") == "91.2%"
    assert units.score_text(1234.56, "perplexity") == "1,234.6"
    assert units.score_text(7.4321, "perplexity") == "7.43"
    assert units.score_text(math.inf, "perplexity") == "–"
    assert [units.percent_text(r) for r in (0.874, 0.9634, 1.0, 1.2, math.nan)] == [
        "87%", "96.3%", "100%", "120%", "–",
    ]  # fmt: skip


def test_byte_ticks_are_decades_or_finer():
    ticks, texts = units.byte_ticks(2e5, 3e8)
    assert ticks == [1e5, 1e6, 1e7, 1e8, 1e9]
    assert texts == ["100 kB", "1 MB", "10 MB", "100 MB", "1 GB"]
    assert units.byte_ticks(3.5e4, 4.5e4)[1][:5] == ["10 kB", "20 kB", "30 kB", "40 kB", "50 kB"]
    assert units.byte_ticks(3e5, 8e5)[1] == ["100 kB", "200 kB", "500 kB", "1 MB", "2 MB", "5 MB"]
