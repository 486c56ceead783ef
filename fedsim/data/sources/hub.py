"""A dataset of the Hugging Face hub, by its name. The only source that needs a network."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources import tables
from fedsim.data.sources.raw import Raw
from fedsim.errors import ConfigError

if TYPE_CHECKING:
    import datasets

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
        return datasets.load_dataset(data.path, data.subset, split=data.hub_split)
    rows = STREAMED * data.max_examples
    stream = datasets.load_dataset(data.path, data.subset, split=data.hub_split, streaming=True)
    if data.modality == "image" and stream.features and data.image_column in stream.features:
        stream = stream.cast_column(data.image_column, datasets.Image(decode=False))
    shuffled = stream.shuffle(seed=seed, buffer_size=rows)
    return datasets.Dataset.from_list(
        list(islice(shuffled, rows)), features=stream.features, info=stream.info
    )
