"""A blob stays one cluster, planted clusters are found, and each step does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polykit.runtime.clusters.clustering import (
    NOISE,
    Partition,
    Recipe,
    agreement,
    distances,
    partition,
)
from polykit.runtime.clusters.evidence import (
    LEVEL,
    comebacks,
    find_clusters,
    jaccard,
    monte_carlo,
    one_blob,
    reaches,
    stability,
    strength,
)


def loadings(draw, d, power):
    axes, _ = np.linalg.qr(draw.normal(size=(d, d)))
    return axes * np.arange(1, d + 1) ** (-power / 2)


def gaussian(draw, n, d):
    return draw.normal(size=(n, d)) @ loadings(draw, d, 1.0).T


def heavy(draw, n, d):
    """Student's t with 3 degrees of freedom."""
    return draw.normal(size=(n, d)) @ loadings(draw, d, 0.5).T / np.sqrt(draw.chisquare(3, (n, 1)))


def rectified(draw, n, d):
    """What a ReLU leaves of one normal distribution: most values are 0, the others correlated."""
    behind = gaussian(draw, n, d)
    return np.maximum(behind / behind.std(0) + 0.7 * draw.normal(size=d) - 0.5, 0.0)


def look(x, seed, **options):
    recipe = Recipe(min_cluster_size=max(5, len(x) // 20))
    return find_clusters(x, x.mean(0), x.std(0), recipe, np.random.default_rng(seed), **options)


@pytest.mark.parametrize(
    ("kind", "n", "d"),
    [
        (gaussian, 100, 8),
        (gaussian, 300, 64),
        (heavy, 100, 32),
        (rectified, 100, 8),
        (rectified, 50, 8),
        (rectified, 100, 256),
    ],
)
def test_a_blob_is_taken_for_several_clusters_in_one_case_of_twenty_at_most(kind, n, d):
    draw = np.random.default_rng(0)
    found = [look(kind(draw, n, d), trial) for trial in range(100)]
    assert sum(one.clusters > 1 for one in found) <= 5
    assert all(one.clusters == 1 and not one.labels.any() for one in found if not one.stability)


def test_density_alone_splits_what_a_relu_leaves_of_a_blob():
    """Without the second test the one above would fail: the splits are stable."""
    draw = np.random.default_rng(0)
    found = [look(rectified(draw, 100, 8), trial) for trial in range(40)]
    assert sum(one.found.clusters > 1 for one in found) >= 10
    assert sum(one.p < 1 for one in found) > 2


@pytest.mark.parametrize("kind", [gaussian, rectified])
@pytest.mark.parametrize(("n", "d"), [(120, 16), (300, 64), (150, 256)])
def test_planted_clusters_are_recovered(kind, n, d):
    draw = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
    centres = 9.0 * np.abs(draw.normal(size=(3, d))) / np.sqrt(d)
    spread = 1.0 if kind is gaussian else 1 / np.sqrt(d)
    x = spread * kind(draw, n, d) + 3 * centres[truth]
    found = look(x, 0)
    assert found.clusters == 3
    assert agreement(truth, found.labels) >= 0.95
    assert found.p <= LEVEL
    assert min(found.stability) > 0.8
    sizes = [int(np.sum(found.labels == c)) for c in range(3)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_same_seed_gives_the_same_answer():
    x = rectified(np.random.default_rng(3), 200, 8)
    one, two = look(x, 5), look(x, 5)
    assert np.array_equal(one.labels, two.labels)
    assert (one.p, one.stability) == (two.p, two.stability)


def test_clusters_that_dissolve_become_noise():
    """Two tight clusters stay; what HDBSCAN makes of the haze around them does not."""
    draw = np.random.default_rng(0)
    tight = [0.3 * draw.normal(size=(30, 2)) + centre for centre in ([0, 0], [9, 0])]
    x = np.concatenate([*tight, draw.uniform([-3, -6], [12, 8], size=(40, 2))])
    found = look(x, 0)
    assert (found.found.clusters, found.clusters) == (3, 2)
    assert agreement(np.repeat([0, 1], 30), found.labels[:60]) > 0.9
    assert np.sum(found.labels == NOISE) > np.sum(found.found.labels == NOISE)
    assert not found.probabilities[found.labels == NOISE].any()
    assert (found.probabilities[found.labels != NOISE] > 0).all()


@pytest.mark.parametrize("scale", ["none", "standardise", "length"])
def test_no_points_are_no_cluster(scale):
    found = find_clusters(
        np.zeros((0, 4)), np.zeros(4), np.ones(4), Recipe(scale, 2), np.random.default_rng(0)
    )
    assert (found.clusters, found.found.noise_share, len(found.labels)) == (0, 0.0, 0)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_few_points_are_one_cluster(n):
    found = look(np.random.default_rng(0).normal(size=(n, 4)), 0)
    assert (found.clusters, found.p, found.found.clusters) == (1, 1.0, 0)
    assert found.labels.tolist() == [0] * n


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 4))
def test_the_jaccard_index_is_that_of_sets(seed, ours, theirs):
    draw = np.random.default_rng(seed)
    a, b = draw.integers(-1, ours, 30), draw.integers(-1, theirs, 30)

    def sets(labels, count):
        return [set(np.flatnonzero(labels == c)) for c in range(count)]

    expected = [
        max((len(s & t) / len(s | t) for t in sets(b, theirs) if s | t), default=0.0)
        for s in sets(a, ours)
    ]
    assert np.allclose(jaccard(a, b, ours), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.0, 1.0))
def test_reaching_stops_early_but_says_the_same(seed, observed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(-1, 3, 40)
    rounds = [draw.random(int(labels.max()) + 1) for _ in range(6)]
    exact = strength(labels, np.mean(rounds, axis=0))
    if abs(exact - observed) > 1e-9:
        split = Partition(labels, np.ones(40))
        assert reaches(observed, split, iter(rounds), 6) == (exact >= observed)


def test_nothing_is_drawn_for_a_split_that_cannot_reach():
    labels = np.array([0, 0, 1, 1, *[NOISE] * 6])
    assert not reaches(0.5, Partition(labels, np.ones(10)), iter(()), 20)
    whole = Partition(np.full(10, NOISE), np.zeros(10))
    assert not reaches(0.0, whole, iter(()), 20)


def test_subsamples_hold_as_many_points_as_a_bootstrap_has_different_ones():
    x = np.concatenate([np.zeros((20, 2)), np.full((20, 2), 9.0)])
    x = x + 0.1 * np.random.default_rng(0).normal(size=x.shape)
    apart = distances(x)
    labels = partition(apart, Recipe()).labels
    found = list(comebacks(labels, apart, Recipe(), np.random.default_rng(0), 7))
    assert len(found) == 7
    assert stability(labels, apart, Recipe(), np.random.default_rng(0), 7).tolist() == [1.0, 1.0]
    boot = np.random.default_rng(0).integers(0, 40, (2000, 40))
    assert np.mean([len(set(row)) for row in boot]) == pytest.approx(25, abs=0.5)  # round(.632·40)


def test_the_p_value_is_uniform_under_the_null():
    draw = np.random.default_rng(0)

    def p():
        observed = draw.random()
        return monte_carlo(lambda: draw.random() >= observed, 39)

    values = np.array([p() for _ in range(4000)])
    assert np.mean(values <= LEVEL) == pytest.approx(LEVEL, abs=0.012)
    assert values.min() == pytest.approx(1 / 40)
    assert values.max() <= 1


def test_a_blob_has_the_moments_of_the_vectors():
    draw = np.random.default_rng(0)
    x = rectified(draw, 4000, 6)
    x[:, 5] = x[:, 5] + 3.0  # a coordinate that nothing cuts off
    x[:, 4] = 0.0
    made = one_blob(x, draw)
    y = np.concatenate([made(draw) for _ in range(5)])
    assert made(draw).shape == x.shape
    assert np.allclose(y.mean(0), x.mean(0), atol=0.05)
    assert np.allclose((y == 0).mean(0), (x == 0).mean(0), atol=0.02)
    assert (y[:, :5] >= 0).all()
    assert not y[:, 4].any()
    assert np.allclose(np.corrcoef(y[:, :4].T), np.corrcoef(x[:, :4].T), atol=0.06)
