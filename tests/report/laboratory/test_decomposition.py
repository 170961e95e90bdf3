from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polykit.report.laboratory import decomposition, effects
from polykit.report.laboratory.findings import spread

from .conftest import COMPOSITION, Truth


@settings(max_examples=100, deadline=None)
@given(
    kept=arrays(float, (2, 4), elements=st.integers(0, 50).map(float)),
    means=arrays(float, (2, 4), elements=st.floats(1, 20)),
)
def test_both_parts_add_up_exactly_also_where_layers_vanish(kept, means):
    kept[:, 0] += 1  # a network has a unit left
    weights = kept / kept.sum(axis=1, keepdims=True)
    told = np.where(weights > 0, means, np.nan)
    within, composition = decomposition.contributions(weights[0], told[0], weights[1], told[1])
    both_gone = (weights == 0).all(axis=0)
    change = np.nansum(weights[1] * told[1]) - np.nansum(weights[0] * told[0])
    total = np.where(both_gone, 0.0, within + composition).sum()
    assert total == pytest.approx(change, abs=1e-9)
    one_gone = (weights == 0).any(axis=0) & ~both_gone
    assert (within[one_gone] == 0).all()


def test_closed_forms():
    equal = np.array([0.5, 0.5])
    within, composition = decomposition.contributions(
        equal, np.array([4.0, 6.0]), equal, np.array([5.0, 7.0])
    )
    assert (within.sum(), composition.sum()) == (1.0, 0.0)  # shares unchanged
    within, composition = decomposition.contributions(
        equal, np.array([4.0, 6.0]), np.array([0.25, 0.75]), np.array([4.0, 6.0])
    )
    assert (within.sum(), composition.sum()) == (0.0, 0.5)  # means unchanged


def test_composition_does_not_depend_on_where_the_scale_begins():
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.ones(3), 2)
    m = rng.uniform(3, 9, (2, 3))
    plain = decomposition.contributions(w[0], m[0], w[1], m[1])[1].sum()
    moved = decomposition.contributions(w[0], m[0] + 100, w[1], m[1] + 100)[1].sum()
    assert moved == pytest.approx(plain, abs=1e-9)


@pytest.fixture(scope="module")
def run(make_laboratory):
    return make_laboratory(
        moved=Truth(within=0.5, first=1.2, second=0.2, silent=0.1), only=COMPOSITION
    )


def of(run, statistic="ratio_responding"):
    return decomposition.states(run.rows, run.tables["networks"], "ig", statistic)


def test_parts_are_those_of_the_saved_networks(run):
    states = of(run)
    values = spread(run.rows, "ig", "ratio_responding")
    found = {e.scenario: e for e in effects.effects(values) if e.contrast == "pruning"}
    parts = decomposition.parts(decomposition.by_setting(states, "unpruned"))
    moved, only = parts["moved", 0.0], parts["only", 0.0]
    for name in ("moved", "only"):
        both = parts[name, 0.5]
        whole = found[name].estimate  # the last setting: dropout 0.5
        assert both.total.mean == pytest.approx(whole.mean)
        assert both.within.mean + both.composition.mean == pytest.approx(whole.mean)
    assert moved.within.mean == pytest.approx(0.5, abs=0.05)
    assert only.within.low < 0 < only.within.high
    assert only.composition.clear


def test_a_mean_over_responding_units_weighs_only_those(run):
    states = of(run)
    first = states.sort_index().loc[("moved", 0.0, 0, "dense", 0.0)]
    assert first["weight"].to_numpy() == pytest.approx([64 / 80, 16 / 80])
    rows = run.rows.copy()
    quiet = (rows.statistic == "silent") & (rows.layer == "net.0") & (rows.scenario == "only")
    rows.loc[quiet, "value"] = 0.5
    # Now the layers no longer add up to the mean that the table tells, so nothing is claimed.
    left = decomposition.states(rows, run.tables["networks"], "ig", "ratio_responding")
    assert "only" not in left.index.get_level_values("scenario")
    assert "moved" in left.index.get_level_values("scenario")


def test_the_other_headline_weighs_all_units(run):
    states = of(run, "ratio")
    sums = (states["weight"] * states["mean"]).groupby(level=effects.NETWORK).sum()
    whole = run.rows[(run.rows.statistic == "ratio") & (run.rows.layer == "all")]
    assert sums.to_dict() == pytest.approx(whole.set_index(effects.NETWORK)["value"].to_dict())


def test_widths_of_unpruned_networks_need_not_be_told(run):
    networks = run.tables["networks"]
    some = networks[networks.arm.isin(["pruned"])]
    states = decomposition.states(run.rows, some, "ig", "ratio_responding")
    arms = set(states.index.get_level_values("arm"))
    assert arms == {"dense", "unpruned", "pruned"}


def test_a_layer_that_vanishes_gives_composition_only():
    rows, widths = [], []
    for seed in range(3):
        for arm, ratio, kept, means in (
            ("unpruned", 0.0, (30, 10), (5.0, 9.0)),
            ("pruned", 0.5, (30, 0), (5.0, None)),
        ):
            key = ("s", 0.0, seed, arm, ratio)
            told = [(n, m) for n, m in zip(kept, means, strict=True) if m is not None]
            mean = sum(n * m for n, m in told) / sum(n for n, _ in told)
            rows.append((*key, "ig", "all", "ratio", mean))
            for layer, (n, m) in enumerate(zip(kept, means, strict=True)):
                widths.append((*key, 0.0, str(layer), (30, 10)[layer], n))
                if m is not None:
                    rows.append((*key, "ig", str(layer), "ratio", m))
    table = pd.DataFrame(rows, columns=[*effects.NETWORK, "metric", "layer", "statistic", "value"])
    columns = [*effects.NETWORK, "actual_ratio", "layer", "units", "kept"]
    states = decomposition.states(table, pd.DataFrame(widths, columns=columns), "ig", "ratio")
    parts = decomposition.parts(decomposition.by_setting(states, "unpruned"))["s", 0.0]
    assert (parts.total.mean, parts.within.mean) == (-1.0, 0.0)
    assert parts.composition.mean == -1.0
