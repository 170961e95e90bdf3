"""Which of a run's numbers a tracker is told, and what they are called. Torch-free to import."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def headlines(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the values of rows that are about a whole network, by what tells them apart.

    A row of one layer or unit is left to the run's tables, and so is the second of one name.

    >>> rows = [
    ...     {"seed": 0, "metric": "ig", "layer": "all", "statistic": "poly", "value": 1.5},
    ...     {"seed": 0, "metric": "ig", "layer": "fc1", "statistic": "poly", "value": 2.0},
    ... ]
    >>> headlines(rows)
    {'ig/poly': 1.5}
    """
    from polykit.types.measurement import ALL_LAYERS  # here, since it imports torch

    whole = [
        row for row in rows if row.get("layer", ALL_LAYERS) == ALL_LAYERS and "unit" not in row
    ]
    columns = [name for name in dict.fromkeys(c for row in whole for c in row) if name != "value"]
    telling = [
        name
        for name in columns
        if name in ("metric", "statistic") or len({str(row.get(name)) for row in whole}) > 1
    ]
    found: dict[str, float] = {}
    for row in whole:
        if plain(row.get("value")):
            name = "/".join(_word(column, row[column]) for column in telling if column in row)
            found.setdefault(name, row["value"])
    return found


def plain(value: Any) -> bool:
    """Whether a value is a number that can be drawn.

    >>> plain(1.5), plain(float("nan")), plain(None)
    (True, False, False)
    """
    return isinstance(value, int | float) and math.isfinite(value)


def _word(column: str, value: Any) -> str:
    """Write one column's value: texts speak for themselves, numbers need their column's name."""
    return value if isinstance(value, str) else f"{column}{value}"
