"""Progress bars."""

import os
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

QUIET_VARIABLE = "VIT_QUIET"


def progress(items: Iterable[T], label: str, unit: str, total: int | None = None) -> "tqdm[T]":
    """A bar with rate and remaining time; silent where output is no terminal or VIT_QUIET is
    set."""
    # None lets tqdm ask whether the output is a terminal
    disable = True if os.environ.get(QUIET_VARIABLE) else None
    return tqdm(items, desc=label, unit=unit, total=total, disable=disable, dynamic_ncols=True)
