"""The units of a run of `clusters`, the most polysemantic first, with their statistics."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from polykit.runtime.store import SavedRun

STATISTICS: Mapping[str, str] = {
    "clusters": "clusters",
    "score": "score",
    "silhouette": "silhouette",
    "dbcv": "DBCV",
    "stability": "stability",
    "noise_share": "noise share",
    "class_purity": "class purity",
    "name_purity": "name purity",
    "fires": "fires",
    "top_activation": "top activation",
}
"""The statistics of a unit that the ranking shows, with the names of their columns."""


def ranked(run: SavedRun) -> list[tuple[str, dict[str, float]]]:
    """Return each unit, as `layer:index`, with its statistics: the most polysemantic first."""
    rows = run.rows
    if rows.empty:
        return []
    table = rows.pivot_table("value", ["layer", "unit"], "statistic", sort=False)
    table = table.reset_index().sort_values(
        [name for name in ("score", "clusters", "silhouette") if name in table.columns],
        ascending=False,
        kind="stable",
    )
    return [
        (
            f"{row['layer']}:{int(row['unit'])}",
            {k: float(v) for k, v in row.items() if k in STATISTICS and pd.notna(v)},
        )
        for row in table.to_dict("records")
    ]


def of_unit(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the rows of a table that belong to a unit, given as `layer:index`."""
    layer, _, index = unit.rpartition(":")
    return table[(table["layer"] == layer) & (table["unit"] == int(index))]
