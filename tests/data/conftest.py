"""What several of these tests need: a way to make a config, and the real files where they are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.config import DataConfig, Participants, Partition, RunConfig, Split

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def config() -> MakeConfig:
    """`config(seed=…, count=…, partition={…}, split={…}, **data)`."""

    def make(
        seed: int = 0,
        count: int = 3,
        partition: dict[str, Any] | None = None,
        split: dict[str, Any] | None = None,
        **data: Any,
    ) -> RunConfig:
        return RunConfig(
            seed=seed,
            data=DataConfig(**{"vocabulary": 300, **data}, split=Split(**(split or {}))),
            participants=Participants(
                count=count, partition=Partition(**{"minimum": 5, **(partition or {})})
            ),
        )

    return make


@pytest.fixture
def real_data() -> Path:
    """Folder of real data sets, which the project doesn't bring along."""
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("FEDSIM_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real data sets here; FEDSIM_TEST_DATA names the folder that holds them")
    return folder
