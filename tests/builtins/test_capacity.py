"""Capacity: how much of a layer each feature has to itself."""

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
from polykit_builtins.metrics.capacity import Capacity, capacity

matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.one_of(st.just(0.0), st.floats(-1e6, 1e6), st.floats(-1e-6, 1e-6)),
)


def test_worked_out_by_hand() -> None:
    # columns (2, −1, 0) and (0, 1, −1): products 5, −1, 2
    M = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(capacity(M), torch.tensor([25 / 26, 4 / 5]).double())


def test_features_share_a_direction_or_have_it_alone() -> None:
    M = torch.tensor([[1.0, 1.0, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0, 0.0]])
    C = capacity(M)
    assert C[:3].sum() <= 1
    assert C[3:].tolist() == [1, 0]
    assert capacity(torch.zeros(3, 2)).tolist() == [0, 0]


def test_against_numpy() -> None:
    M = np.random.default_rng(0).normal(size=(7, 4))
    G = M.T @ M
    np.testing.assert_allclose(capacity(torch.tensor(M)), np.diag(G) ** 2 / (G**2).sum(1))


@settings(deadline=None)
@given(matrices)
def test_bounds(values: np.ndarray) -> None:
    C = capacity(torch.tensor(values))
    assert ((C >= 0) & (C <= 1 + 1e-12)).all()
    assert float(C.sum()) <= min(values.shape) * (1 + 1e-9)  # units have one dimension each


def test_the_metric_gives_layers_and_the_network() -> None:
    found = subject(Registry.discover(), networks()["dying"], datasets()["truth"], 16)
    (result,) = measure_all([Capacity()], found)
    space = found.feature_space("auto")
    M = attribution_matrix(found.model, space.encode, space.n_features)
    first, second = capacity(M[:12]), capacity(M[12:])
    assert torch.equal(result.arrays["layers"], torch.stack([first, second]))
    assert torch.equal(result.arrays["network"], capacity(M))
    assert list(result.rows()) == [
        ("all", "capacity", float(capacity(M).mean())),
        ("1", "capacity", pytest.approx(float(first.mean()))),
        ("3", "capacity", pytest.approx(float(second.mean()))),
    ]
    assert not second.any()  # the layer is dead
    assert first.any()
    (steep,) = measure_all([Capacity(at="post", steps=3)], found)
    assert not torch.equal(steep.arrays["layers"], result.arrays["layers"])
