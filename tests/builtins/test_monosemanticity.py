"""Monosemanticity: whether a unit fires for one feature only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.testing.samples import datasets, networks, subject
from polykit.types import FeatureSpace, Measurement
from polykit_builtins.metrics.monosemanticity import Monosemanticity, monosemanticity

values = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.floats(-1e-9, 1e-9)),
)


def test_the_formula() -> None:
    H = torch.tensor([[2.0, 0.0, -1.0], [1.0, 1.0, 2.0], [0.0, -3.0, 0.0], [1e-10, 0.0, 0.0]])
    table = monosemanticity(H)
    np.testing.assert_allclose(table["monosemanticity"], [1, 0.5, 0, 0.5], rtol=1e-6)
    assert table["silent"].tolist() == [0, 0, 1, 0]


@settings(deadline=None)
@given(values)
def test_bounds(H: np.ndarray) -> None:
    table = monosemanticity(torch.tensor(H))
    fires = (H > 0).any(axis=1)
    assert np.array_equal(table["silent"] == 0, fires)
    expected = [max(0, *h, 0) / (1e-10 + sum(max(0, v) for v in h)) for h in H]
    np.testing.assert_allclose(table["monosemanticity"], expected, rtol=1e-9)
    assert table["monosemanticity"].between(0, 1).all()


def measured(weight: list[list[float]], bias: list[float], **options: float) -> Measurement:
    """Measure a layer of given weights whose inputs are the features themselves."""
    model = nn.Sequential(nn.Linear(len(weight[0]), len(weight)), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.data, model[0].bias.data = torch.tensor(weight), torch.tensor(bias)
    data = replace(datasets()["truth"], input_shape=(len(weight[0]),))
    space = FeatureSpace("given", len(weight[0]), lambda features: features)
    found = replace(subject(Registry.discover(), model.eval(), data, 16), spaces=lambda *_: space)
    return measure_all([Monosemanticity(**options)], found)[0]


WEIGHT = [[3.0, 0.0, 0.0], [1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [9.0, 1.0, 0.0]]


def test_units_are_counted_over_those_that_fire_and_over_features() -> None:
    result = measured(WEIGHT, [0.0, 0.0, 0.0, 0.0])
    rows = {name: value for layer, name, value in result.rows() if layer == "all"}
    assert rows == {
        "monosemanticity": pytest.approx((1 + 0.5 + 0 + 0.9) / 4),
        "silent": 0.25,
        "monosemanticity_responding": pytest.approx((1 + 0.5 + 0.9) / 3),
        "monosemantic_share": pytest.approx(1 / 3),
        "monosemantic_per_feature": pytest.approx(1 / 3),
    }
    lower = measured(WEIGHT, [0.0, 0.0, 0.0, 0.0], threshold=0.8)
    assert lower.summary["monosemantic_share"] == pytest.approx(2 / 3)


def test_it_is_the_value_that_counts_not_the_change() -> None:
    # a bias makes the first unit fire for all features: 4, 1, 1
    result = measured(WEIGHT, [1.0, 0.0, 0.0, 0.0])
    assert result.units is not None
    assert result.units["monosemanticity"][0] == pytest.approx(4 / 6)


def test_a_layer_that_never_fires_has_no_mean() -> None:
    found = subject(Registry.discover(), networks()["dying"], datasets()["truth"], 16)
    (result,) = measure_all([Monosemanticity()], found)
    assert result.layers["3"] == {"monosemantic_per_feature": 0}
    rows = {(layer, name): value for layer, name, value in result.rows()}
    assert rows["3", "silent"] == 1
    assert rows["1", "silent"] < 1
    assert rows["all", "monosemanticity_responding"] == rows["1", "monosemanticity_responding"]
