"""The reference manual that `help()` shows: English prose on every machine, beside code another domain.

Meant as a public set that is unlike private code: it shares names with it and little else. Each of the
manual's topics is a document of 1–2 KB pieces.
"""

from __future__ import annotations

import platform

import numpy as np

from fedsim.config import DataConfig
from fedsim.data.sources.raw import Raw, chunks, from_documents
from fedsim.errors import ConfigError


def load(data: DataConfig, rng: np.random.Generator) -> Raw:
    """Raises ConfigError where this Python comes without its manual."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(
            "data.source", "manual", "another source: this Python has no pydoc_data.topics"
        ) from None
    documents = [piece for name in sorted(topics) for piece in chunks(topics[name])]
    return from_documents(
        documents,
        np.zeros(len(documents), dtype=np.int64),
        ["manual"],
        description=f"reference manual of Python {platform.python_version()}",
        origin=f"CPython {platform.python_version()} documentation, PSF-2.0 licence",
        limit=data.max_examples,
        rng=rng,
    )
