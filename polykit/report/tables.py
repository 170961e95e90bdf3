"""Tables of the page: text for the eye and a key to sort by, for every cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report import numbers, words
from polykit.report.images import Image
from polykit.report.numbers import Estimate


@dataclass(frozen=True)
class Cell:
    """What is read, and what is sorted by: a number, or None for text and for what is missing.

    `link` is the id of the part of the page that tells more; `images` stand behind the text.
    """

    text: str
    key: float | None = None
    link: str = ""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with its heading; `numeric` says which columns hold numbers."""

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def from_frame(name: str, title: str, note: str, frame: pd.DataFrame) -> Table:
    """Make a table of a frame's columns, and of its index where that has names.

    >>> made = from_frame("t", "T", "", pd.DataFrame({"pruner": ["snip"], "auc": [0.98765]}))
    >>> made.columns, [cell.text for cell in made.rows[0]]
    (('pruner', 'auc'), ['snip', '0.988'])
    """
    named = [level for level in frame.index.names if level is not None]
    flat = frame.reset_index() if named else frame
    numeric = tuple(pd.api.types.is_numeric_dtype(flat[column]) for column in flat.columns)
    return Table(
        name,
        title,
        note,
        tuple(str(column).replace("_", " ") for column in flat.columns),
        numeric,
        tuple(tuple(map(_plain, row)) for row in flat.itertuples(index=False, name=None)),
    )


def _plain(value: Any) -> Cell:
    if isinstance(value, float):
        return Cell("–") if pd.isna(value) else Cell(words.number(value), value)
    return Cell(str(value), float(value) if isinstance(value, int) else None)


def exact(value: float) -> Cell:
    """Write a setting, such as a density, as it was given."""
    return Cell(f"{value:g}", value)


def spread(values: pd.Series[float] | None) -> Cell:
    """Write values over seeds as their mean ± half the width of its interval."""
    if values is None or values.empty:
        return Cell("–")
    found = numbers.estimate(values)
    text = ""
    if found.half and found.half > 1e-9 * abs(found.mean):  # else rounding noise of equal seeds
        text = f" ± {words.number(found.half, found.mean)}"
    return Cell(f"{words.number(found.mean)}{text}", found.mean)


def difference(found: Estimate | None) -> Cell:
    """Write a difference with its interval."""
    return Cell("–") if found is None else Cell(words.interval(found), found.mean)


def spread_note(rows: pd.DataFrame) -> str:
    """Say what stands behind ± in `spread`, if rows of several seeds have it."""
    several = rows["seed"].nunique() > 1
    return " ± half the width of the 95\u00a0% t-interval" if several else ""


def pairs(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write names and values as text, nested ones as `outer.inner`.

    >>> pairs({"lr": 0.001, "options": {"force": {"rounds": 5}}, "seeds": [0, 1]})
    [('lr', '0.001'), ('options.force.rounds', '5'), ('seeds', '0, 1')]
    >>> pairs({"scenarios": [{"name": "N1"}, {"name": "N2"}]})
    [('scenarios.1.name', 'N1'), ('scenarios.2.name', 'N2')]
    """
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        inside: Mapping[str, Any] | None = value if isinstance(value, dict) else None
        if isinstance(value, (list, tuple)) and any(isinstance(part, dict) for part in value):
            inside = {str(place): part for place, part in enumerate(value, 1)}
        if inside is not None:
            found += [(f"{name}.{inner}", text) for inner, text in pairs(inside)]
        elif isinstance(value, (list, tuple)):
            found.append((str(name), ", ".join(str(part) for part in value) or "none"))
        else:
            found.append((str(name), "none" if value is None else str(value)))
    return found
