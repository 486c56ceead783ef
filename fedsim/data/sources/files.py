"""Files of your own: a file, a folder or a glob, read through the `datasets` library.

| what | examples | group |
|---|---|---|
| `.txt` | pieces of 1–2 KB, cut at blank lines | the file's name; its folder's where there are several |
| `.jsonl`, `.json`, `.csv`, `.parquet` | rows | `data.label_column` |
| WebDataset `.tar` | samples: files of one name, their endings the columns | `data.label_column` |
| image folder | image files | the class folder they lie in |
| folder of `save_to_disk` | rows of split `data.hub_split` | `data.label_column` |

Everything is read into memory and the library's cache is a temporary folder, so that runs that read
the same files at the same time don't meet.
"""

from __future__ import annotations

import csv
import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources import tables
from fedsim.data.sources.raw import Raw, chunks, from_documents
from fedsim.disk.scratch import Folder
from fedsim.errors import ConfigError

if TYPE_CHECKING:
    import datasets

TAR_END = 1024
"""Bytes, all zero, that a tar ends with."""

_IMAGES = {".parquet": "parquet", ".tar": "webdataset"} | dict.fromkeys(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"), "imagefolder"
)

KINDS = {
    "text": {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"},
    "image": _IMAGES,
    "image_text": _IMAGES,
}
"""For each modality, the reader of each file ending; other files in a folder are not looked at."""


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """Raises ConfigError: nothing at `data.path`, files of several kinds or none that are known,
    no rows, and as `tables.read` does."""
    if not data.path:
        raise ConfigError("data.path", data.path, "a file, a folder or a glob")
    modality = tables.require_modality(data)
    description = f"{modality}s of {Path(data.path).name or data.path}"
    origin = f"local files: {Path(data.path).name or data.path}"
    folder = Path(data.path).expanduser()
    if _is_saved(folder):
        with tables.quiet():
            return tables.read(_open_saved(folder, data), data, rng, description=description, origin=origin)
    kind, files = _find(data, KINDS[modality])
    if kind == "text":
        return _read_texts(files, data, rng, description, origin)
    with Folder() as cache, tables.quiet():
        table = _open(kind, files, data, str(cache))
        label = "label" if kind == "imagefolder" and "label" in table.column_names else None
        return tables.read(table, data, rng, description=description, origin=origin, default_label=label)


def _find(data: DataConfig, kinds: dict[str, str]) -> tuple[str, list[Path]]:
    """The one kind of file at `data.path`, and the files that aren't empty, by path."""
    assert data.path is not None
    path = Path(data.path).expanduser()
    if path.is_dir():
        found = [f for f in path.rglob("*") if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    elif path.is_file():
        found = [path]
    else:
        # Path.glob takes no absolute pattern.
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
    files = sorted(f.absolute() for f in found if f.is_file())
    if not files:
        raise ConfigError("data.path", data.path, f"an existing file, folder or glob (from {Path.cwd()})")
    known = [f for f in files if f.suffix.lower() in kinds]
    if not known:
        raise ConfigError("data.path", data.path, f"{data.modality} in files ending in {', '.join(kinds)}")
    present = sorted({kinds[f.suffix.lower()] for f in known})
    if len(present) > 1:
        several = " and ".join(present)
        raise ConfigError("data.path", data.path, f"files of one kind (a glob selects them); found {several}")
    full = [f for f in known if f.stat().st_size]
    if not full:
        raise ConfigError("data.path", data.path, "data with at least one row; the files are empty")
    return present[0], full


def _read_texts(
    files: list[Path], data: DataConfig, rng: np.random.Generator, description: str, origin: str
) -> Raw:
    folders = {f.parent for f in files}
    # Two folders of the same name in different places are one domain: the name is all a reader sees.
    domains = [f.stem if len(folders) == 1 else f.parent.name for f in files]
    names = sorted(set(domains))
    documents: list[str] = []
    groups: list[int] = []
    for file, domain in zip(files, domains, strict=True):
        try:
            pieces = list(chunks(file.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise ConfigError("data.path", str(file), f"text in UTF-8 ({error.reason})") from None
        documents += pieces
        groups += [names.index(domain)] * len(pieces)
    raw = from_documents(
        documents,
        np.array(groups, dtype=np.int64),
        names,
        description=description,
        origin=origin,
        limit=data.max_examples,
        rng=rng,
    )
    if not len(raw):
        raise ConfigError("data.path", data.path, "text; the files hold only blanks")
    return raw


def _open(kind: str, files: list[Path], data: DataConfig, cache: str) -> datasets.Dataset:
    import datasets

    options: dict[str, Any] = {}
    if kind == "webdataset":
        _require_ends(files)
    if kind == "csv":
        options = _csv_options(files, data)
    elif kind == "parquet":
        options = {"batch_size": 10_000}  # left to the library, a file without rows makes it 0
    try:
        return datasets.load_dataset(
            kind,
            # The library would take a bracket in a file's name for a pattern.
            data_files=[glob.escape(str(f)) for f in files],
            split="train",
            cache_dir=cache,
            keep_in_memory=True,
            **options,
        )
    except Exception as error:  # each reader has errors of its own
        problem = tables.one_line(error)
        if "corresponds to no data" in problem:
            raise ConfigError("data.path", data.path, "data with at least one row") from None
        raise ConfigError("data.path", data.path, f"readable {kind} ({problem})") from error


def _require_ends(tars: list[Path]) -> None:
    """A tar ends with two empty blocks; readers take one that breaks off for a shorter one."""
    for tar in tars:
        with tar.open("rb") as content:
            content.seek(max(0, tar.stat().st_size - TAR_END))
            if content.read() != bytes(TAR_END):
                raise ConfigError("data.path", str(tar), "a whole tar; this one breaks off or is none")


def _csv_options(files: list[Path], data: DataConfig) -> dict[str, Any]:
    """Every cell is read as text: guessing types chunk by chunk would make `NA` a hole and fail
    where a later chunk disagrees."""
    import datasets

    first = _first_row(files[0])
    columns = first if data.header else [str(i) for i in range(len(first))]
    if len(set(columns)) < len(columns):
        raise ConfigError("data.header", data.header, f"false, or column names that differ ({columns})")
    for file in files[1:] if data.header else []:
        if _first_row(file) != columns:  # columns are taken by their place
            raise ConfigError("data.path", str(file), f"the columns of {files[0].name}: {', '.join(columns)}")
    return {
        "names": columns,
        "header": 0 if data.header else None,
        "features": datasets.Features({c: datasets.Value("string") for c in columns}),
        "keep_default_na": False,
    }


def _first_row(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("data.path", str(file), f"CSV in UTF-8 ({error})") from None


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _open_saved(folder: Path, data: DataConfig) -> datasets.Dataset:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder), keep_in_memory=True)
    except Exception as error:
        problem = tables.one_line(error)
        raise ConfigError("data.path", data.path, f"a folder of save_to_disk ({problem})") from error
    if isinstance(saved, datasets.Dataset):
        return saved
    if data.hub_split not in saved:
        raise ConfigError("data.hub_split", data.hub_split, f"one of the splits {', '.join(saved)}")
    return saved[data.hub_split]
