"""The answer of a clusters run in words, from tables made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polykit.report.clusters.numbers import STATISTICS, summary
from polykit.report.clusters.verdict import verdict
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import empty

SPLIT = {
    **{"pictures": 100, "fires": 0.4, "clusters": 2, "score": 1.5, "noise_share": 0.2, "p": 0.025},
    **{"hdbscan_clusters": 3, "hdbscan_noise_share": 0.1, "stability": 0.83, "silhouette": 0.4},
}
WHOLE = {
    **{"pictures": 100, "fires": 0.4, "clusters": 1, "score": 0.0, "noise_share": 0.0, "p": 1.0},
    **{"hdbscan_clusters": 0, "hdbscan_noise_share": 1.0},
}
SILENT = {"pictures": 0, "fires": 0.0, "clusters": 0, "score": 0.0}


def run(units, clusters=(), sensitivity=()):
    rows = [
        {"layer": "f.10", "unit": unit, "statistic": name, "value": float(value)}
        for unit, values in units.items()
        for name, value in values.items()
    ]
    tables = {name: empty("clusters", name) for name in ("clusters", "members", "pictures")}
    tables["sensitivity"] = pd.DataFrame(sensitivity or empty("clusters", "sensitivity"))
    tables["rows"] = pd.DataFrame(rows) if rows else empty("clusters", "rows")
    if clusters:
        tables["clusters"] = pd.DataFrame(clusters)
    return SavedRun(Path("run"), {"workflow": "clusters"}, tables)


def cluster(number, size, purity=np.nan, label="", name_purity=np.nan, name=""):
    place = {"layer": "f.10", "unit": 1, "cluster": number, "size": size}
    return {
        **place,
        "purity": purity,
        "class": label,
        "name_purity": name_purity,
        "name": name,
    }


GROUPS = [cluster(0, 50, 0.6, "n1", 0.9, "dog"), cluster(1, 30, 0.7, "n2"), cluster(-1, 20)]


def test_units_that_split_come_first_and_are_described():
    found = verdict(run({0: WHOLE, 1: SPLIT, 2: SILENT}, GROUPS))
    assert found.answer == (
        "1 of 3 units looks polysemantic: its strongest pictures fall into several groups that "
        "are more than chance. First in the ranking: f.10:1 (50 of which 90\u00a0% “dog” and 30 of "
        "which 70\u00a0% “n2”). In unit f.10:0 HDBSCAN finds no group that stands apart and calls "
        "all pictures noise; they count as one cluster. Unit f.10:2 never fired."
    )
    assert [name for name, _ in found.parts] == ["f.10:1", "f.10:0", "f.10:2"]
    said = dict(found.parts)
    assert "20\u00a0% belong to none" in said["f.10:1"][0]
    assert "Jaccard index of 0.83 or more" in said["f.10:1"][1]
    assert "p\u00a0≤\u00a00.025" in said["f.10:1"][1]
    assert "all of them are noise" in said["f.10:0"][0]
    assert found.notes


@pytest.mark.parametrize(
    ("p", "reason"),
    [(1.0, "no two of them come again"), (0.4, "split as strongly with p\u00a0=\u00a00.40")],
)
def test_a_split_that_is_not_confirmed_says_why(p, reason):
    row = {**WHOLE, "hdbscan_clusters": 3, "hdbscan_noise_share": 0.3, "p": p}
    found = verdict(run({0: row}))
    assert found.answer.startswith("The only unit does not look polysemantic")
    assert "HDBSCAN alone finds 3" in found.parts[0][1][0]
    assert reason in found.parts[0][1][0]


def test_other_settings_are_counted():
    place = {"layer": "f.10", "unit": 1, "noise_share": 0.1}
    other = [
        {**place, "setting": "a", "clusters": 2, "agreement": 0.9},
        {**place, "setting": "b", "clusters": 0, "agreement": 0.0},
        {**place, "setting": "c", "clusters": 3, "agreement": 0.8},
    ]
    said = dict(verdict(run({1: SPLIT}, GROUPS, other)).parts)["f.10:1"]
    assert "With 2 of 3 other settings" in said[-1]
    assert "0.80" in said[-1]


def test_without_labels_groups_are_sizes():
    plain = [cluster(0, 50), cluster(1, 30)]
    assert "(50 and 30)" in verdict(run({1: SPLIT}, plain)).answer


def test_an_empty_run_has_nothing_to_say():
    assert verdict(run({})).answer == "No unit was looked at."
    assert summary(run({})).empty


def test_the_summary_is_in_the_order_of_the_ranking():
    table = summary(run({0: WHOLE, 1: SPLIT, 2: SILENT, 3: {**SPLIT, "score": 1.9}}))
    assert [unit for _, unit in table.index] == [3, 1, 0, 2]
    assert list(table.columns) == [name for name in STATISTICS if name in table.columns]
    assert np.isnan(table.loc[("f.10", 0), "stability"])


def test_every_statistic_lies_in_its_range():
    for values in (SPLIT, WHOLE, SILENT):
        for name, value in values.items():
            assert STATISTICS[name].low <= value <= STATISTICS[name].high
