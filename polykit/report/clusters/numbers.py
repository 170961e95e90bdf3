"""The numbers of a run of `clusters`: every unit, the most polysemantic first."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from polykit.runtime.store import SavedRun
from polykit.types.measurement import Column

STATISTICS: Mapping[str, Column] = {
    "score": Column(
        "groups among its pictures, as many as are sure: effective number × share that comes again",
        "groups",
        0,
    ),
    "clusters": Column("confirmed clusters; 1 where the pictures stay together", "", 0),
    "stability": Column("mean Jaccard index of the least stable cluster in subsamples", "", 0.5, 1),
    "noise_share": Column("share of the pictures in no cluster", "share", 0, 1),
    "silhouette": Column("how far clusters lie apart for their width", "", -1, 1),
    "dbcv": Column("density-based validity of the clusters", "", -1, 1),
    "p": Column("chance that a single blob is split as strongly", "", 0, 1),
    "class_purity": Column("share of a cluster's pictures in its main class", "share", 0, 1),
    "name_purity": Column("share of a cluster's pictures with its main noun", "share", 0, 1),
    "pictures": Column("top pictures that were clustered", "pictures", 0),
    "fires": Column("share of all pictures that give a value above 0", "share", 0, 1),
    "top_activation": Column("largest value", ""),
    "hdbscan_clusters": Column("clusters that HDBSCAN alone finds", "", 0),
    "hdbscan_noise_share": Column("share of the pictures that HDBSCAN alone calls noise", "", 0, 1),
}
"""Every statistic of a unit, in the order of the columns."""


def summary(run: SavedRun) -> pd.DataFrame:
    """Return one row per unit (layer, unit) and one column per statistic, by falling score.

    What is not defined for a unit, such as the stability of a single cluster, is NaN; a statistic
    that no unit has is left out.
    """
    rows = run.rows
    table = rows.pivot_table("value", ["layer", "unit"], "statistic", sort=False)
    order = [name for name in STATISTICS if name in table.columns]
    by = [name for name in ("score", "clusters", "fires") if name in order]
    table = table[order].sort_values(by, ascending=False, kind="stable") if by else table
    return table.rename_axis(columns=None)
