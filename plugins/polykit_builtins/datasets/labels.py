"""Classes as datasets tell them: by number or by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from polykit.errors import DataError
from polykit_builtins.datasets.pictures import Numbers, printable

MOST_CLASSES = 100_000
"""Different classes that data may have."""
_LONGEST = 200
"""Characters of a class's name."""

PARTS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What the parts of data are called."""


def order_classes(names: Sequence[str], who: str) -> tuple[list[str], Numbers]:
    """Return the classes in order, and the number of each of `names` there.

    Whole numbers keep their own, so that there may be classes without pictures. Raises DataError,
    on behalf of `who`, for a number that is too large.

    >>> order_classes(["3", "1"], "us")
    (['0', '1', '2', '3'], array([3, 1]))
    >>> order_classes(["dog", "cat"], "us")
    (['cat', 'dog'], array([1, 0]))
    """
    if names and all(re.fullmatch(r"\d{1,9}", name) for name in names):
        numbers = [int(name) for name in names]
        if max(numbers) >= MOST_CLASSES:
            raise DataError(
                f"{who}: class {max(numbers)} would be the last of so many; class numbers are "
                f"the network's outputs, from 0 to {MOST_CLASSES - 1}"
            )
        return [str(number) for number in range(max(numbers) + 1)], np.array(numbers)
    order = sorted(names)
    place = {name: number for number, name in enumerate(order)}
    return order, np.array([place[name] for name in names], dtype=np.int64)


def class_name(value: Any) -> str | None:
    """Write a class, given as text or as a whole number, as its name; None for anything else."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = printable(str(value).strip())
    return name if 0 < len(name) <= _LONGEST and name.isprintable() else None
