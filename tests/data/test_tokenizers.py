import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fedsim.data import tokenizers
from fedsim.errors import ConfigError

PROSE = ["the cat sat on the mat and the dog sat on the cat\n" * 20, "def f(x):\n    return x + 1\n" * 20]


@pytest.fixture(scope="module")
def trained() -> str:
    return tokenizers.train(PROSE, 280)


def numbered(*sizes: int) -> list[np.ndarray]:
    """Documents of tokens that are all different: 0, 1, 2, …"""
    return np.split(np.arange(sum(sizes), dtype=np.int32), np.cumsum(sizes)[:-1])


def keys(count: int) -> np.ndarray:
    return np.arange(100, 100 + count, dtype=np.uint64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n  x\t",
        "the cat",
        "naïve Ωμέγα 漢字 🙂",
        "\x00\x1f\x7f",
        "a<|endoftext|>b",
        " leading",
        "\r\n",
    ],
)
def test_round_trip(trained: str, text: str):
    (ids,) = tokenizers.encode(trained, [text])
    assert ids[-1] == 0
    assert 0 not in ids[:-1]  # a document can't forge the end of text
    assert Tokenizer.from_str(trained).decode(ids[:-1].tolist(), skip_special_tokens=False) == text


def test_ids_of_the_end_and_the_bytes(trained: str):
    reader = Tokenizer.from_str(trained)
    assert reader.token_to_id("<|endoftext|>") == 0
    assert reader.get_vocab_size() == tokenizers.size(trained) == 280
    assert sorted(i for t, i in reader.get_vocab().items() if len(t) == 1) == list(range(1, 257))


def test_the_vocabulary_is_as_large_as_the_text_allows():
    assert tokenizers.size(tokenizers.train(["aaaa"], 1000)) < 265


def test_training_twice_gives_the_same_text(trained: str):
    assert tokenizers.train(PROSE, 280) == trained


def test_windows_are_the_joined_documents_cut():
    examples = tokenizers.pack(numbered(5, 7, 6), np.array([0, 0, 0]), keys(3), 4)
    assert examples.arrays["input_ids"].dtype == np.int32
    assert np.array_equal(examples.arrays["input_ids"], np.arange(16).reshape(4, 4))  # 16 and 17 dropped
    assert examples.keys.tolist() == [100, 100, 101, 102]  # windows start at tokens 0, 4, 8, 12


def test_documents_of_different_groups_are_not_joined():
    examples = tokenizers.pack(numbered(4, 4, 4, 4), np.array([1, 0, 1, 0]), keys(4), 8)
    assert examples.arrays["input_ids"].tolist() == [
        [*range(4, 8), *range(12, 16)],
        [*range(4), *range(8, 12)],
    ]
    assert examples.groups.tolist() == [0, 1]


def test_groups_too_small_for_a_window_are_joined_with_each_other():
    examples = tokenizers.pack(numbered(3, 3, 9, 3), np.array([3, 0, 1, 2]), keys(4), 8)
    assert examples.groups.tolist() == [1, 0]
    assert examples.arrays["input_ids"][1].tolist() == [3, 4, 5, 15, 16, 17, 0, 1]


@pytest.mark.parametrize("sizes", [(), (3,), (3, 4)])
def test_less_than_a_window_is_no_example(sizes: tuple[int, ...]):
    tokens = numbered(*sizes) if sizes else []
    examples = tokenizers.pack(tokens, np.arange(len(sizes)), keys(len(sizes)), 8)
    assert len(examples) == 0
    assert examples.arrays["input_ids"].shape == (0, 8)


def test_encode_windows_puts_an_end_between_documents(trained: str):
    tokens = tokenizers.encode(trained, ["cat", "dog"])
    window = sum(map(len, tokens))
    examples = tokenizers.encode_windows(trained, ["cat", "dog"], np.array([0, 0]), keys(2), window)
    (row,) = examples.arrays["input_ids"].tolist()
    assert (
        Tokenizer.from_str(trained).decode(row, skip_special_tokens=False)
        == "cat<|endoftext|>dog<|endoftext|>"
    )


def write_tokenizer(folder: Path, text: str, **declared: object) -> str:
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return str(folder)


@pytest.mark.parametrize(
    ("declared", "end"), [({}, 0), ({"eos_token": "a"}, 65), ({"eos_token": {"content": "b"}}, 66)]
)
def test_a_ready_tokenizer_says_which_its_end_is(tmp_path: Path, trained: str, declared: dict, end: int):
    assert tokenizers.load(write_tokenizer(tmp_path, trained, **declared)) == (trained, end)


def test_errors_of_a_ready_tokenizer(tmp_path: Path, trained: str):
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .*a folder with a tokenizer\.json"):
        tokenizers.load(str(tmp_path))
    with pytest.raises(ConfigError, match="that can be read"):
        tokenizers.load(write_tokenizer(tmp_path, "{}"))
    nameless = trained.replace("<|endoftext|>", "<|other|>")
    with pytest.raises(ConfigError, match="names an eos_token"):
        tokenizers.load(write_tokenizer(tmp_path, nameless))
