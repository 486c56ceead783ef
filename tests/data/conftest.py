"""What several of these tests need: a way to make a config."""

from collections.abc import Callable
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
