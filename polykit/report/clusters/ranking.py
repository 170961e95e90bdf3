"""Units by name, the most polysemantic first."""

from __future__ import annotations

import pandas as pd

from polykit.report.clusters.numbers import summary
from polykit.runtime.store import SavedRun


def ranked(run: SavedRun) -> list[tuple[str, dict[str, float]]]:
    """Return each unit, as `layer:index`, with those of its statistics that are defined."""
    table = summary(run)
    return [
        (f"{layer}:{unit}", {str(k): float(v) for k, v in row.items() if pd.notna(v)})
        for (layer, unit), row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def of_unit(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return the rows of a table that belong to a unit, given as `layer:index`."""
    layer, _, index = unit.rpartition(":")
    return table[(table["layer"] == layer) & (table["unit"] == int(index))]
