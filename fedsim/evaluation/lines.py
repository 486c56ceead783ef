"""Files of JSON lines, each line an item that somebody is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

Item = TypeVar("Item")


def parse(text: str, make: Callable[[Any], Item]) -> list[Item]:
    """What `make` makes of each line that isn't empty.

    Raises ValueError that names the line and what is wrong with it.
    """
    items = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                items.append(make(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"line {number}: {what}") from None
    return items
