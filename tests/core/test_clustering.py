"""Recipes, partitions and medoids, against closed forms and the hdbscan library."""

from __future__ import annotations

import hdbscan
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from polykit.runtime.clusters.clustering import (
    Recipe,
    agreement,
    distances,
    embed,
    medoids,
    partition,
    variants,
)


def groups(seed, sizes=(40, 30, 25), d=6, apart=6.0):
    draw = np.random.default_rng(seed)
    parts = [draw.normal(size=(n, d)) + apart * draw.normal(size=d) / np.sqrt(d) for n in sizes]
    return np.concatenate(parts)


def plain(x):
    return np.zeros(x.shape[1]), np.ones(x.shape[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 12), st.integers(1, 4), st.sampled_from([1.0, 4.0]))
def test_the_partition_is_that_of_the_hdbscan_library(seed, smallest, samples, apart):
    """Where the library's own answer is the same for its ways and for points in any order.

    Equal core distances can leave the spanning tree open.
    """
    x = groups(seed, apart=apart)
    theirs = hdbscan.HDBSCAN(min_cluster_size=smallest, min_samples=samples, algorithm="generic")
    theirs.fit(x)
    draw = np.random.default_rng(seed)
    for way in ("generic", "prims_kdtree", "boruvka_kdtree") * 4:
        order = draw.permutation(len(x))
        again = hdbscan.HDBSCAN(min_cluster_size=smallest, min_samples=samples, algorithm=way)
        labels = again.fit(x[order].copy()).labels_
        assume(agreement(theirs.labels_[order], labels) == 1.0)
    ours = partition(distances(x), Recipe(min_cluster_size=smallest, min_samples=samples))
    assert agreement(ours.labels, theirs.labels_) == 1.0
    assert ours.clusters == theirs.labels_.max() + 1
    assert np.array_equal(ours.labels == -1, theirs.labels_ == -1)


def test_distances_are_left_as_they_were():
    apart = distances(groups(0))
    before = apart.copy()
    partition(apart, Recipe())
    assert np.array_equal(apart, before)
    assert np.allclose(apart, cdist(groups(0), groups(0)), atol=1e-6)


@pytest.mark.parametrize("n", [1, 5, 9])
def test_too_few_points_for_two_clusters_are_noise(n):
    found = partition(distances(np.random.default_rng(0).normal(size=(n, 3))), Recipe())
    assert (found.clusters, found.noise_share) == (0, 1.0)


def test_equal_points_can_be_clustered():
    x = np.repeat([[0.0], [1.0]], 20, axis=0)
    found = partition(distances(x), Recipe())
    assert found.clusters == 2
    assert not np.isnan(found.probabilities).any()


def test_standardising_uses_the_moments_of_all_pictures():
    x = np.random.default_rng(0).normal(size=(20, 3))
    mean, std = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 0.5])
    made = embed(x, Recipe("standardise"), mean, std)
    assert np.allclose(made[:, [0, 2]], (x - mean)[:, [0, 2]] / std[[0, 2]])
    assert not made[:, 1].any()  # what never varies says nothing


def test_vectors_of_length_one_and_the_zero_vector():
    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert embed(x, Recipe("length"), *plain(x)).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_principal_components_keep_the_most_of_the_distances():
    x = np.random.default_rng(0).normal(size=(50, 8)) * [9, 7, 1, 1, 1, 1, 1, 1]
    made = embed(x, Recipe(pca=2), *plain(x))
    centred = x - x.mean(0)
    _, s, _ = np.linalg.svd(centred)
    assert made.shape == (50, 2)
    assert np.allclose(np.linalg.norm(made, axis=0), s[:2])
    assert np.allclose(distances(embed(x, Recipe(pca=8), *plain(x))), distances(x))
    assert embed(x[:3], Recipe(pca=5), *plain(x)).shape == (3, 8)  # more than there are


def test_medoids_have_the_smallest_sum_of_distances():
    x = groups(1)
    apart, labels = distances(x), np.random.default_rng(0).integers(-1, 3, len(x))
    for cluster, medoid in enumerate(medoids(labels, apart)):
        sums = {
            i: sum(np.linalg.norm(x[i] - x[j]) for j in np.flatnonzero(labels == cluster))
            for i in np.flatnonzero(labels == cluster)
        }
        assert medoid == min(sums, key=sums.get)


def test_variants_are_other_settings_each_with_its_own_name():
    recipe = Recipe("none", 0, 30, 5)
    made = variants(recipe, 64)
    assert recipe not in made.values()
    assert len(set(made.values())) == len(made) == 8
    assert made["clusters of 15"].min_cluster_size == 15
    assert made["10 neighbours"].min_samples == 10
    assert not any("PCA" in name for name in variants(recipe, 10))  # nothing to leave out
    assert "as it is" in variants(Recipe("standardise", 10), 64)
