"""What a run of `clusters` found, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from polykit.report import words
from polykit.report.clusters.numbers import summary
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

NOTES = (
    "Clusters are confirmed if they come again in subsamples of the pictures (mean Jaccard index "
    "above 0.5) and a single blob with the same means, spreads, correlations and share of zeros is "
    "split as strongly in at most 5\u00a0% of draws.",
    "The score counts groups as far as they are sure: the effective number of clusters (exp of the "
    "entropy of their sizes) times the share of the top pictures that comes again in its cluster. "
    "It is 0 where the pictures stay together.",
    "Several groups of pictures make a unit a candidate. Whether different parts of the network "
    "carry them is what a dissection asks.",
)
NAMED = 3
"""Units that the answer names; it tells the groups of the first."""

Row = Mapping[str, Any]


def verdict(run: SavedRun) -> Verdict:
    """Say which units look polysemantic, and of each unit why; pure, from the tables only."""
    table = summary(run)
    if table.empty:
        return Verdict("No unit was looked at.")
    units = {
        f"{layer}:{unit}": row for (layer, unit), row in zip(table.index, _rows(table), strict=True)
    }
    split = [name for name, row in units.items() if row["clusters"] > 1]
    parts = tuple((name, tuple(_sentences(run, name, row))) for name, row in units.items())
    return Verdict(" ".join(_answer(run, units, split)), parts, NOTES)


def _answer(run: SavedRun, units: Mapping[str, Row], split: Sequence[str]) -> list[str]:
    silent = [name for name, row in units.items() if row["pictures"] == 0]
    alone = [name for name, row in units.items() if row.get("hdbscan_noise_share") == 1]
    if not split:
        found = [
            "The only unit does not look polysemantic at these settings: its strongest pictures "
            "stay together."
            if len(units) == 1
            else f"None of the {len(units)} units looks polysemantic at these settings: the "
            f"strongest pictures of each stay together."
        ]
    else:
        one = len(split) == 1
        found = [
            f"{len(split)} of {len(units)} units look{'s' * one} polysemantic: "
            f"{'its' if one else 'their'} strongest pictures fall into several groups that are "
            f"more than chance."
        ]
    if split:
        first, *next_ones = split[:NAMED]
        then = f", then {' and '.join(next_ones)}" if next_ones else ""
        found.append(f"First in the ranking: {first} ({_groups(run, first)}){then}.")
    if alone:
        found.append(
            f"In {_units(alone)} HDBSCAN finds no group that stands apart and calls all pictures "
            f"noise; they count as one cluster."
        )
    if silent:
        found.append(f"{words.capital(_units(silent))} never fired.")
    return found


def _sentences(run: SavedRun, name: str, row: Row) -> list[str]:
    """What can be said of one unit."""
    if row["pictures"] == 0:
        return ["It fires on none of the pictures."]
    pictures = f"{int(row['pictures'])} strongest pictures"
    if row["clusters"] < 2:
        return [_together(row, pictures), *_elsewhere(run, name)]
    noise = f"; {_percent(row['noise_share'])} belong to none" if row["noise_share"] else ""
    return [
        f"Its {pictures} fall into {int(row['clusters'])} groups: {_groups(run, name)}{noise}.",
        f"In subsamples each comes again with a mean Jaccard index of {_two(row['stability'])} or "
        f"more; a single blob would be split as strongly with p\u00a0≤\u00a0{row['p']:.3f}.",
        *_elsewhere(run, name),
    ]


def _together(row: Row, pictures: str) -> str:
    """Why the pictures count as one group."""
    alone = int(row["hdbscan_clusters"])
    if alone == 0:
        return f"Its {pictures} stay together: HDBSCAN finds no group apart, all of them are noise."
    groups = f"Its {pictures} count as one group. HDBSCAN alone finds {alone}, but "
    if row["p"] < 1:
        return f"{groups}a single blob is split as strongly with p\u00a0=\u00a0{_two(row['p'])}."
    return f"{groups}no two of them come again in subsamples."


def _elsewhere(run: SavedRun, name: str) -> list[str]:
    """What other settings say."""
    table = _of(run.tables["sensitivity"], name)
    if table.empty:
        return []
    several = int((table["clusters"] > 1).sum())
    return [
        f"With {several} of {len(table)} other settings HDBSCAN finds two groups or more; the "
        f"median agreement with these (adjusted Rand index) is "
        f"{_two(float(table['agreement'].median()))}."
    ]


def _groups(run: SavedRun, name: str) -> str:
    """Describe the clusters of a unit by size and what they mostly are."""
    table = _of(run.tables["clusters"], name)
    return words.listed([_group(row) for row in _rows(table[table["cluster"] >= 0])])


def _group(row: Row) -> str:
    if row["name"] and row["name_purity"] > row["purity"]:
        return f"{row['size']} of which {_percent(row['name_purity'])} “{row['name']}”"
    if row["class"]:
        return f"{row['size']} of which {_percent(row['purity'])} “{row['class']}”"
    return f"{row['size']}"


def _of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    layer, _, unit = name.rpartition(":")
    return table[(table["layer"] == layer) & (table["unit"] == int(unit))]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _units(names: Sequence[str]) -> str:
    return f"unit {names[0]}" if len(names) == 1 else f"{len(names)} units"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
