"""The hub, with its library standing in for the network."""

import datasets
import numpy as np
import pytest

from fedsim.config import DataConfig
from fedsim.data.sources import Raw, hub
from fedsim.errors import ConfigError

TABLE = datasets.Dataset.from_dict(
    {"text": [f"text {i}" for i in range(100)], "label": [i % 4 for i in range(100)]},
    features=datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["w", "s", "b", "t"])}
    ),
)


def load(**data: object) -> Raw:
    config = DataConfig(**{"source": "hub", "path": "some/set", "modality": "text", **data})
    return hub.load(config, np.random.default_rng(0))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list:
    calls = []

    def fake(path, subset, *, split, revision=None, streaming=False):
        calls.append((path, subset, split, revision, streaming))
        return TABLE.to_iterable_dataset() if streaming else TABLE

    monkeypatch.setattr(datasets, "load_dataset", fake)
    return calls


def test_a_whole_split(asked: list):
    raw = load(subset="raw", hub_split="dev", label_column="label")
    assert asked == [("some/set", "raw", "dev", None, False)]
    assert len(raw) == 100
    assert raw.group_names == ("w", "s", "b", "t")
    assert "some/set" in raw.origin


def test_a_few_examples_are_streamed_and_drawn_evenly(asked: list):
    raw = load(label_column="label", max_examples=20)
    assert asked == [("some/set", None, "train", None, True)]
    assert np.bincount(raw.groups).tolist() == [5] * 4
    assert raw.documents == load(label_column="label", max_examples=20).documents


def test_images_are_streamed_undecoded(monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    images = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (4, 4), i) for i in range(10)], "label": [0, 1] * 5},
        datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: images.to_iterable_dataset())
    raw = load(modality="image", label_column="label", max_examples=4)
    assert raw.pixels.shape == (4, 1, 4, 4)
    assert raw.group_names == ("a", "b")


def test_unknown_column(asked: list):
    with pytest.raises(ConfigError, match=r"data\.text_column: 'body' .* one of the columns text, label"):
        load(text_column="body")


def test_no_path_and_no_modality():
    with pytest.raises(ConfigError, match=r"data\.path"):
        load(path=None)
    with pytest.raises(ConfigError, match=r"data\.modality"):
        load(modality=None)


@pytest.mark.parametrize("limit", [None, 5])
def test_no_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, limit: int | None):
    def fails(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(ConfigError, match=r"data\.path: 'some/set/train' .*Couldn't reach") as caught:
        load(max_examples=limit)
    assert "\n" not in str(caught.value)
