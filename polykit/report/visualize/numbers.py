"""What a run of `visualize` can say in numbers: how far its pictures moved a unit."""

from __future__ import annotations

import pandas as pd

from polykit.runtime.store import SavedRun


def summary(run: SavedRun) -> pd.DataFrame:
    """Return one row for each unit, variant and kind of pictures, one column per statistic."""
    rows = run.rows
    if rows.empty:
        return rows.set_index(["unit", "variant", "kind"])[[]]
    return rows.pivot_table("value", ["unit", "variant", "kind"], "statistic", sort=False)
