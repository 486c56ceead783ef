"""Rows of the `datasets` library → Raw: columns found, labels numbered, cells decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL, getLogger
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.images import decode
from fedsim.data.sources.raw import Raw, draw_evenly, from_documents, from_pixels
from fedsim.errors import ConfigError

if TYPE_CHECKING:
    import datasets


def read(
    table: datasets.Dataset,
    data: DataConfig,
    rng: np.random.Generator,
    *,
    description: str,
    origin: str,
    default_label: str | None = None,
) -> Raw:
    """The examples in the columns that the config names.

    default_label: the label column where the config names none and the layout tells (class folders).
    Raises ConfigError: no modality, no rows, an unknown column, a column of the wrong kind.
    """
    modality = require_modality(data)
    label = data.label_column or default_label
    if modality == "text":
        require_column(table.column_names, data.text_column, "data.text_column")
        if data.prompt_column is not None:
            require_column(table.column_names, data.prompt_column, "data.prompt_column")
    else:
        require_column(table.column_names, data.image_column, "data.image_column")
        if label is None and data.answers and not (modality == "image_text" and data.caption_column):
            others = [c for c in table.column_names if c != data.image_column]
            choice = _one_of(others) if others else f"a column of labels, which {data.path} doesn't have"
            raise ConfigError("data.label_column", None, choice)
    if label is not None:
        require_column(table.column_names, label, "data.label_column")
    if not len(table):
        raise ConfigError("data.path", data.path, "data with at least one row")
    if modality != "text":
        return _read_images(table, data, rng, label, description=description, origin=origin)
    groups, names = _groups(table, label, data.label_names) if label else (_alike(table), ["text"])
    asked: list[str] = []
    if data.prompt_column is not None:
        asked = [_text(cell, data.prompt_column) for cell in table[data.prompt_column][:]]
    raw = from_documents(
        [_text(cell, data.text_column) for cell in table[data.text_column][:]],
        groups,
        names,
        description=description,
        origin=origin,
        limit=data.max_examples,
        rng=rng,
        prompts=asked,
    )
    if not len(raw):
        raise ConfigError(
            "data.text_column", data.text_column, "a column of texts; all of its cells are blank"
        )
    return raw


def _read_images(
    table: datasets.Dataset,
    data: DataConfig,
    rng: np.random.Generator,
    label: str | None,
    **about: str,
) -> Raw:
    """Images with the labels and, for image–text, the captions that there are."""
    captions: list[str] = []
    if data.modality == "image_text" and data.caption_column is not None:
        require_column(table.column_names, data.caption_column, "data.caption_column")
        captions = [_caption(cell, data.caption_column) for cell in table[data.caption_column][:]]
        told = np.array([i for i, caption in enumerate(captions) if caption], dtype=np.int64)
        if not len(told):
            raise ConfigError("data.caption_column", data.caption_column, "a column with texts in it")
        table, captions = table.select(told), [captions[i] for i in told]
    groups, names = _groups(table, label, data.label_names) if label else (_alike(table), ["images"])
    # Drawn before decoding, so that a few images of a big set cost a few decodings.
    index = draw_evenly(groups, data.max_examples, rng)
    cells = _encoded(table.select(index), data.image_column)
    return from_pixels(
        decode(cells, data.image_size, data.image_column),
        groups[index],
        names,
        captions=[captions[i] for i in index] if captions else (),
        labelled=label is not None,
        **about,
    )


def require_modality(data: DataConfig) -> str:
    if data.modality is None:
        raise ConfigError(
            "data.modality", None, f"text, image or image_text, which source {data.source} can't tell"
        )
    return data.modality


def require_column(columns: list[str], name: str, field: str) -> None:
    if name not in columns:
        raise ConfigError(field, name, _one_of(columns))


def one_line(error: BaseException, limit: int = 200) -> str:
    """The deepest cause of an error, as the part of a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's progress bars and messages, and leave its settings as they were."""
    import datasets
    from datasets.utils import logging

    bars = datasets.are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    hub = getLogger("huggingface_hub")
    hub_level = hub.level
    datasets.disable_progress_bars()
    # What goes wrong is raised, and told once.
    logging.set_verbosity(CRITICAL)
    hub.setLevel(CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def _one_of(columns: list[str]) -> str:
    return f"one of the columns {', '.join(columns)}"


def _alike(table: datasets.Dataset) -> np.ndarray:
    """All rows of one group, [N] int64."""
    return np.zeros(len(table), np.int64)


def _groups(
    table: datasets.Dataset, column: str, called: tuple[str, ...] | None
) -> tuple[np.ndarray, list[str]]:
    """Group [N] int64 of each row, and the groups' names: in order of number where all are numbers.

    called: what to call groups 0, 1, 2, … in place of their numbers.
    """
    values = table[column][:]
    missing = sum(v is None for v in values)
    declared = getattr(table.features[column], "names", None)
    if declared:
        # −1 is how the hub marks a test set whose labels are kept back.
        missing += sum(v is not None and v < 0 for v in values)
    if missing:
        raise ConfigError("data.label_column", column, f"a label in every row; {missing} rows have none")
    if declared:
        return np.array(values, dtype=np.int64), _called(list(declared), called)
    if any(isinstance(v, list | dict) for v in values):
        raise ConfigError("data.label_column", column, "a column of numbers or names")
    texts = [str(v) for v in values]
    numbers = all(t.removeprefix("-").isdecimal() for t in texts)
    if numbers and called and all(0 <= int(t) < len(called) for t in texts):
        return np.array([int(t) for t in texts], dtype=np.int64), list(called)
    names = sorted(set(texts), key=(lambda t: (int(t), t)) if numbers else (lambda t: (0, t)))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[t] for t in texts], dtype=np.int64), _called(names, called)


def _called(names: list[str], called: tuple[str, ...] | None) -> list[str]:
    if called is not None and len(called) != len(names):
        raise ConfigError("data.label_names", called, f"{len(names)} names, of {', '.join(names[:12])}")
    return list(called) if called is not None else names


def _text(cell: Any, column: str) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise ConfigError("data.text_column", column, f"a column of texts; it holds {type(cell).__name__}")
    return cell


def _caption(cell: Any, column: str) -> str:
    """The text of a cell, the first where it holds several; empty where it holds none."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    if cell is not None and not isinstance(cell, str):
        raise ConfigError("data.caption_column", column, f"a column of texts; it holds {type(cell).__name__}")
    return " ".join((cell or "").split())


def _encoded(table: datasets.Dataset, column: str) -> Any:
    """The column's cells as `{"bytes", "path"}`, however the file declares them."""
    import datasets

    try:
        return table.cast_column(column, datasets.Image(decode=False))[column]
    except Exception as error:  # Arrow's errors share no base with the library's
        raise ConfigError("data.image_column", column, f"a column of images ({one_line(error)})") from error
