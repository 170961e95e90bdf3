"""Validity indices against the hdbscan and scikit-learn libraries, purity against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hdbscan.validity import validity_index
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

from polykit.runtime.clusters.quality import (
    dbcv,
    effective_number,
    heads,
    purest,
    purest_name,
    silhouette,
)


def labelled(seed, d, clusters):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(6, 30, clusters)
    x = np.concatenate([draw.normal(size=(n, d)) + 3 * draw.normal(size=d) for n in sizes])
    labels = np.repeat(np.arange(clusters), sizes)
    labels[draw.permutation(len(x))[:3]] = -1
    return x, labels, cdist(x, x)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(2, 4))
def test_dbcv_is_that_of_the_hdbscan_library(seed, d, clusters):
    x, labels, apart = labelled(seed, d, clusters)
    assert dbcv(labels, apart, d) == pytest.approx(validity_index(x, labels), abs=1e-9)


def test_dbcv_holds_in_many_dimensions():
    """Powers of 256 overflow in the library unless distances are about 1."""
    x, labels, apart = labelled(0, 256, 3)
    expected = validity_index(x / np.median(apart), labels)
    for scale in (1e-3, 1.0, 1e3):
        assert dbcv(labels, apart * scale, 256) == pytest.approx(expected, abs=1e-9)


def test_dbcv_of_equal_points():
    x = np.repeat([[0.0], [1.0]], [5, 6], axis=0)
    assert dbcv(np.repeat([0, 1], [5, 6]), cdist(x, x), 1) is None
    x[0] = 0.1
    x[5] = 1.1
    found = dbcv(np.repeat([0, 1], [5, 6]), cdist(x, x), 1)
    assert found is not None
    assert math.isfinite(found)


def test_the_silhouette_leaves_noise_out():
    x, labels, apart = labelled(1, 4, 3)
    kept = labels >= 0
    expected = silhouette_score(x[kept], labels[kept])
    assert silhouette(labels, apart) == pytest.approx(expected)


def test_one_cluster_has_neither():
    apart = cdist(np.arange(9.0)[:, None], np.arange(9.0)[:, None])
    for labels in (np.zeros(9, dtype=int), np.full(9, -1)):
        assert silhouette(labels, apart) is None
        assert dbcv(labels, apart, 1) is None


def test_purity():
    assert purest(["b", "a", "b", "a"]) == ("a", 0.5)
    assert heads("cab, hack, taxi, taxicab") == {"cab", "hack", "taxi", "taxicab"}
    assert heads("Siamese cat, Siamese") == {"cat", "siamese"}
    assert heads(" , ") == frozenset()
    names = ["tabby, tabby cat", "Siamese cat, Siamese", "Egyptian cat", "tiger shark"]
    assert purest_name(names) == ("cat", 0.75)
    assert purest_name(["", " ,"]) == ("", 0.0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_the_effective_number_is_the_number_of_equal_parts(sizes):
    assert 1 - 1e-9 <= effective_number(sizes) <= len(sizes) + 1e-9
    assert effective_number([7] * len(sizes)) == pytest.approx(len(sizes))
    assert effective_number([*sizes, 0]) == pytest.approx(effective_number(sizes))
