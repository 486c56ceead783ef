"""A dataset of the Hugging Face hub, by its name or one of `catalog.HUB`. The only source that needs a
network."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources import tables
from fedsim.data.sources.raw import Raw
from fedsim.errors import ConfigError

if TYPE_CHECKING:
    import datasets

TIMEOUT_S, IMAGE_LIMIT, TRIES = 5.0, 2**24, 20
"""Of images that a dataset holds addresses of: seconds to wait for one, its most bytes, and how many
addresses are tried per image wanted."""

STREAMED = 4
"""Rows read per example wanted, so that an even draw over the labels has something to draw from."""


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """With `max_examples` the rows are streamed: a few times as many are read, shuffled within what
    was read, and drawn from; a set that is sorted by label then shows only its first labels.

    Raises ConfigError where the dataset can't be reached, and as `tables.read` does.
    """
    if not data.path:
        raise ConfigError("data.path", data.path, "the name of a dataset on the hub, e.g. ag_news")
    tables.require_modality(data)
    try:
        with tables.quiet():
            table = _fetch(data, int(rng.integers(2**31)))
    except ConfigError:
        raise
    except Exception as error:  # whatever the network, the hub or the files' formats raise
        where = "/".join(filter(None, (data.path, data.subset, data.hub_split)))
        problem = tables.one_line(error)
        raise ConfigError("data.path", where, f"a dataset the hub can deliver ({problem})") from error
    with tables.quiet():
        return tables.read(
            table,
            data,
            rng,
            description=" ".join(filter(None, (data.path, data.subset, data.hub_split, "split"))),
            origin=f"Hugging Face hub: {data.path}, licence: {table.info.license or 'see its page'}",
        )


def _fetch(data: DataConfig, seed: int) -> datasets.Dataset:
    import datasets

    if data.max_examples is None:
        return datasets.load_dataset(data.path, data.subset, split=data.hub_split, revision=data.revision)
    rows = STREAMED * data.max_examples
    stream = datasets.load_dataset(
        data.path, data.subset, split=data.hub_split, revision=data.revision, streaming=True
    )
    if data.modality == "text" or not stream.features or data.image_column not in stream.features:
        return _drawn(stream.shuffle(seed=seed, buffer_size=rows), rows, stream)
    if stream.features[data.image_column] == datasets.Value("string"):
        return _downloaded(stream.shuffle(seed=seed, buffer_size=rows), data)
    stream = stream.cast_column(data.image_column, datasets.Image(decode=False))
    return _drawn(stream.shuffle(seed=seed, buffer_size=rows), rows, stream)


def _drawn(rows: Iterable[Any], number: int, stream: datasets.IterableDataset) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_list(list(islice(rows, number)), features=stream.features, info=stream.info)


def _downloaded(rows: Iterable[dict[str, Any]], data: DataConfig) -> datasets.Dataset:
    """`max_examples` rows with the images that their addresses lead to; dead ones are passed over."""
    import datasets

    assert data.max_examples is not None
    found: list[dict[str, Any]] = []
    for row in islice(rows, TRIES * data.max_examples):
        content = _download(row[data.image_column])
        if content is not None:
            found.append({**row, data.image_column: {"bytes": content, "path": None}})
        if len(found) == data.max_examples:
            break
    if not found:
        raise ConfigError("data.image_column", data.image_column, "addresses of images that can be reached")
    return datasets.Dataset.from_list(found)


def _download(address: str) -> bytes | None:
    """An image's bytes; None where there is none at that address, or something larger than IMAGE_LIMIT."""
    from PIL import Image

    if not address.startswith(("http://", "https://")):
        return None
    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(IMAGE_LIMIT + 1)
        Image.open(io.BytesIO(content)).verify()
    except Exception:  # whatever a server or a file that is no image may lead to
        return None
    return content if len(content) <= IMAGE_LIMIT else None
