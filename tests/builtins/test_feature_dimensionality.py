"""Feature dimensionality: how many features the units have room for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polykit.registry import Registry
from polykit.runtime.measuring import measure_all
from polykit.testing.samples import datasets, networks, subject
from polykit_builtins.metrics.attribution import attribution_matrix
from polykit_builtins.metrics.feature_dimensionality import (
    FeatureDimensionality,
    feature_dimensionality,
    total_feature_dimensionality,
)

matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.floats(-1e-6, 1e-6)),
)


def test_worked_out_by_hand() -> None:
    M = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -1.0], [2.0, 1.0], [0.0, 0.0]])
    assert total_feature_dimensionality(M) == 1  # 1 + ½ + ⅔ and ½ + 1 + ⅓, each at most 1
    torch.testing.assert_close(feature_dimensionality(M[[1, 3]]), torch.tensor([1, 5 / 6]).double())
    assert total_feature_dimensionality(M[[1, 3]]) == pytest.approx((1 + 5 / 6) / 2)


def test_silent_units_give_nothing_and_no_nan() -> None:
    silent = torch.zeros(4, 3)
    assert feature_dimensionality(silent).tolist() == [0, 0, 0]
    one = torch.cat([silent, torch.tensor([[0.0, -2.0, 0.0]])])
    assert feature_dimensionality(one).tolist() == [0, 1, 0]


def test_against_numpy() -> None:
    M = np.random.default_rng(0).normal(size=(3, 4))
    D = np.abs(M) / np.abs(M).sum(1, keepdims=True)
    expected = np.minimum(D.sum(0), 1)
    np.testing.assert_allclose(feature_dimensionality(torch.tensor(M)), expected)
    assert total_feature_dimensionality(torch.tensor(M)) == pytest.approx(expected.mean())


@settings(deadline=None)
@given(matrices, st.sampled_from([-1e12, -3.0, 1e-200, 1e150]))
def test_bounds_and_scale(values: np.ndarray, scale: float) -> None:
    values = np.where(np.abs(values) < 1e-90, 0, values)  # stays off the smallest numbers
    M = torch.tensor(values)
    D = feature_dimensionality(M)
    assert ((D >= 0) & (D <= 1)).all()
    assert float(D.sum()) <= values.any(axis=1).sum() + 1e-9  # one dimension for each unit
    torch.testing.assert_close(feature_dimensionality(M * scale), D)


def test_the_metric_gives_layers_and_the_network() -> None:
    found = subject(Registry.discover(), networks()["dying"], datasets()["truth"], 16)
    (result,) = measure_all([FeatureDimensionality()], found)
    space = found.feature_space("auto")
    M = attribution_matrix(found.model, space.encode, space.n_features)
    first, second = feature_dimensionality(M[:12]), feature_dimensionality(M[12:])
    assert torch.equal(result.arrays["layers"], torch.stack([first, second]))
    assert torch.equal(result.arrays["network"], feature_dimensionality(M))
    rows = {(layer, name): value for layer, name, value in result.rows()}
    total = "total_feature_dimensionality"
    assert rows["all", total] == total_feature_dimensionality(M) > 0
    assert rows["1", total] == total_feature_dimensionality(M[:12])
    assert rows["3", total] == 0  # the layer is dead
