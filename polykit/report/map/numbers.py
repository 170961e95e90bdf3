"""The numbers of a map: the values of every seed, by point and kind of network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report.numbers import select
from polykit.runtime.store import SavedRun

DENSE = "dense"


@dataclass(frozen=True)
class Kind:
    """Networks that are mapped together: dense ones, or what a pruner left at a density."""

    pruner: str
    density: float
    stage: str

    @property
    def label(self) -> str:
        """What to call them."""
        if self.pruner == DENSE:
            return DENSE
        return f"{self.pruner}, density {self.density:g}, {self.stage}"


def points(run: SavedRun) -> dict[str, Mapping[str, str]]:
    """Return every point with the values of its options, in the recipe's order."""
    return dict(run.meta.get("points") or {})


def axes(run: SavedRun) -> dict[str, list[str]]:
    """Return the options that vary, with their values in order; those of one value last."""
    table: dict[str, dict[str, None]] = {}
    for values in points(run).values():
        for option, value in values.items():
            table.setdefault(option, {})[value] = None
    return {
        option: list(values)
        for option, values in sorted(table.items(), key=lambda entry: len(entry[1]) == 1)
    }


def shown(run: SavedRun) -> list[tuple[str, str]]:
    """Return metric and statistic of everything that is mapped."""
    config: Mapping[str, Any] = run.meta.get("config") or {}
    return [(text.rpartition(".")[0], text.rpartition(".")[2]) for text in config.get("show") or ()]


def kinds(run: SavedRun) -> list[Kind]:
    """Return the kinds of networks, dense first; of pruned ones the last stage there is."""
    rows = run.rows[["pruner", "density", "stage"]].drop_duplicates()
    last = rows.drop_duplicates(["pruner", "density"], keep="last")
    found = [
        Kind(str(row["pruner"]), float(row["density"]), str(row["stage"]))
        for row in last.to_dict("records")
    ]
    return sorted(found, key=lambda kind: kind.pruner != DENSE)


def values(run: SavedRun, metric: str, statistic: str, kind: Kind) -> dict[str, pd.Series[float]]:
    """Return the values of all seeds at each point that has any."""
    table = select(run.rows, metric, statistic)
    table = table[
        (table["pruner"] == kind.pruner)
        & (table["density"] == kind.density)
        & (table["stage"] == kind.stage)
    ]
    return {str(point): part["value"] for point, part in table.groupby("point")}


def summary(run: SavedRun) -> pd.DataFrame:
    """Return one row per point and kind of network, with the mean over seeds of what is mapped."""
    statistics = {f"{m} {s}": (m, s) for m, s in shown(run)}
    rows = []
    for kind in kinds(run):
        found = {name: values(run, *of, kind) for name, of in statistics.items()}
        for point, options in points(run).items():
            own = {name: table[point] for name, table in found.items() if point in table}
            if own:
                means = {name: float(series.mean()) for name, series in own.items()}
                seeds = max(len(series) for series in own.values())
                rows.append({**options, "networks": kind.label, "seeds": seeds, **means})
    keys = [*axes(run), "networks"]
    return pd.DataFrame(rows, columns=[*keys, "seeds", *statistics]).set_index(keys)
