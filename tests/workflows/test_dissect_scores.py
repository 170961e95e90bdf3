"""Which score tells a part that a unit has from one that was made, on units with known parts."""

from functools import cache
from itertools import product

import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from polykit.registry import Registry
from polykit.report.dissect.numbers import DISSOCIATED, SPECIFIC
from polykit.runtime.clusters.specificity import ownership
from polykit.testing.planted import part_scores, planted

LEARNED = "cs:epochs=10,steps=4"


@cache
def scores(spec, aim, density, seeds):
    """The worse part's scores of every planted unit, one row each."""
    pruner = Registry.discover().create("pruner", spec).instance
    parts = [part_scores(planted(seed), pruner, density, aim).assign(seed=seed) for seed in seeds]
    table = pd.concat(parts).groupby(["seed", "index", "kind"]).min().reset_index()
    return table.assign(ownership=ownership(table["specificity"], table["dissociation"]))


def roc(table, score):
    return roc_auc_score(table["kind"] == "two-path", table[score])


@pytest.mark.parametrize(
    ("spec", "aim", "density"),
    [
        (LEARNED, "contrast", 1.0),
        (LEARNED, "preserve", 1.0),
        ("snip", "contrast", 0.03),
    ],
)
def test_ownership_tells_real_parts_from_made_ones(spec, aim, density):
    table = scores(spec, aim, density, (0,) if spec == LEARNED else (0, 1))
    assert roc(table, "ownership") >= 0.95
    assert roc(table, "specificity") >= 0.9
    own = (table["specificity"] >= SPECIFIC) & (table["dissociation"] >= DISSOCIATED)
    planted_parts = table["kind"] == "two-path"
    assert own[planted_parts].mean() >= 0.6
    assert own[~planted_parts].mean() <= 0.1


def test_separation_alone_does_not():
    """A learned mask is a detector: it tells types apart in units that carry neither."""
    table = scores(LEARNED, "contrast", 1.0, (0,))
    made = table[table["kind"].isin(["shared", "random", "other", "entangled"])]
    assert (made["auc"] > 0.95).all()
    assert roc(table, "auc") < 0.75
    assert made["specificity"].median() < SPECIFIC


def test_planted_units_respond_as_they_are_meant_to():
    made = planted(3, pictures=40)
    with torch.no_grad():
        values = made.model(made.x)
    for unit, kind in product(made.units, ("two-path", "shared", "single", "other")):
        if unit.kind != kind:
            continue
        mean = [float(values[made.y == t, unit.index].mean()) for t in range(8)]
        asked = [mean[t] for t in unit.types]
        rest = [m for t, m in enumerate(mean) if t not in unit.types]
        if kind in ("two-path", "shared"):
            assert min(asked) > max(rest)
        if kind == "single":
            assert asked[0] > max(rest)
        if kind == "other":
            assert max(asked) < max(rest)
        if kind == "shared":
            assert unit.types[0] // 2 == unit.types[1] // 2
        else:
            assert unit.types[0] // 2 != unit.types[1] // 2
    again = planted(3, pictures=40)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True)
    )
