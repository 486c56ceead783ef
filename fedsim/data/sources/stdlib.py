"""The source text of Python's own standard library: English and code, on every machine.

Domains are top-level packages, because each has a vocabulary of its own (`email`, `asyncio`, `xml`,
…). The rule that selects them: of the packages in the library's folder, without those in `SKIPPED`,
the `DOMAINS` that have most text, named in alphabetical order. Documents are pieces of 1–2 KB, files
in order of their path. The text differs between Python versions; the run's fingerprints tell.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.raw import Raw, chunks, from_documents
from fedsim.errors import ConfigError

DOMAINS = 12

NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})
NOT_EVERYWHERE = frozenset({"idlelib", "lib2to3", "distutils", "tkinter", "turtledemo", "ensurepip"})
"""Debian ships them apart; 3.12 and 3.13 dropped two."""
GENERATED = frozenset({"encodings", "pydoc_data"})

SKIPPED = NOT_THE_LIBRARY | NOT_EVERYWHERE | GENERATED
"""Folders that are not read, at whatever depth."""

TABLES = frozenset({"html/entities.py", "re/_casefix.py"})
"""Generated tables inside a package that is otherwise prose and code."""


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """Raises ConfigError where this Python comes without the source of its library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {p.name: "".join(t for _, t in _files(root, p)) for p in _packages(root)}
    largest = sorted(texts, key=lambda name: (-len(texts[name]), name))[:DOMAINS]
    names = sorted(name for name in largest if texts[name])
    if not names:
        raise ConfigError("data.source", "stdlib", f"another source: {root} holds no source text")
    documents: list[str] = []
    groups: list[int] = []
    for group, name in enumerate(names):
        for _, text in _files(root, root / name):
            pieces = list(chunks(text))
            documents += pieces
            groups += [group] * len(pieces)
    return from_documents(
        documents,
        np.array(groups, dtype=np.int64),
        names,
        description=f"source text of Python {platform.python_version()}'s standard library",
        origin=f"CPython {platform.python_version()} standard library, PSF-2.0 licence",
        limit=data.max_examples,
        rng=rng,
    )


def _packages(root: Path) -> list[Path]:
    if not root.is_dir():  # e.g. the embeddable build keeps its library in a zip file
        return []
    return [p for p in root.iterdir() if (p / "__init__.py").is_file() and p.name not in SKIPPED]


def _files(root: Path, package: Path) -> Iterator[tuple[str, str]]:
    """(path relative to the library, text) of a package's files, by path."""
    for path in sorted(package.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if SKIPPED.intersection(name.split("/")) or name in TABLES:
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
