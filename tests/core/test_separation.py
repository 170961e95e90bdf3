"""Separation measures against closed forms and a reference library; scores of parts by design."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, pearsonr
from sklearn.metrics import roc_auc_score

from polykit.errors import UsageError
from polykit.runtime.clusters import separation as sep
from polykit.runtime.clusters.specificity import (
    Groups,
    chance_overlap,
    dissociation,
    shuffled,
    specificity,
)
from polykit.types import Candidates

groups = arrays(float, st.integers(1, 12), elements=st.integers(-3, 3).map(float))


def rng():
    return np.random.default_rng(0)


@settings(max_examples=100, deadline=None)
@given(groups, groups)
def test_auc_is_that_of_the_reference_ties_included(a, b):
    labels = np.r_[np.ones(len(a)), np.zeros(len(b))]
    expected = roc_auc_score(labels, np.r_[a, b])
    assert sep.auc(a, b) == pytest.approx(expected, abs=1e-12)
    assert sep.auc(b, a) == pytest.approx(1 - expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(groups, groups, st.integers(0, 9))
def test_a_draw_is_the_auc_of_the_pictures_drawn(a, b, seed):
    chance = np.random.default_rng(seed)
    drawn, other = sep.draws(len(a), 3, chance), sep.draws(len(b), 3, chance)
    found = sep.auc_of_draws(a, b, drawn, other)
    for turn in range(3):
        again = [np.repeat(x, d[turn].astype(int)) for x, d in ((a, drawn), (b, other))]
        assert found[turn] == pytest.approx(sep.auc(*again), abs=1e-12)


def test_a_draw_is_the_correlation_of_the_pictures_drawn():
    a = rng().normal(1e4, 1, 30)  # far from zero: sums of squares alone would lose the digits
    b = a + rng().normal(size=30) * np.arange(30)
    drawn = sep.draws(30, 20, rng())
    found = sep.correlation_of_draws(a, b, drawn)
    for turn in range(20):
        x, y = (np.repeat(v, drawn[turn].astype(int)) for v in (a, b))
        assert found[turn] == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
    assert sep.correlation(a, b) == pytest.approx(pearsonr(a, b).statistic, abs=1e-9)


def test_a_constant_correlates_with_nothing():
    assert sep.correlation([0.1, 0.1, 0.1], [1, 2, 3]) == 0
    assert sep.correlation([1, 2, 3], [1e9 + 0.1] * 3) == 0
    drawn = np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])  # the first sample is one picture thrice
    assert sep.correlation_of_draws([1, 2, 3], [1, 2, 3], drawn).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.0, 3.0])
def test_normal_groups_have_the_known_distance_and_overlap(apart):
    a, b = (
        norm.ppf(np.linspace(0.001, 0.999, 1500)) + apart,
        norm.ppf(np.linspace(0.001, 0.999, 900)),
    )
    assert sep.cohens_d(a, b) == pytest.approx(apart, abs=0.02)
    assert sep.overlap(a, b) == pytest.approx(2 * norm.cdf(-apart / 2), abs=0.03)
    assert sep.auc(a, b) == pytest.approx(norm.cdf(apart / math.sqrt(2)), abs=0.005)


def test_pooled_deviation_weighs_groups_by_their_degrees_of_freedom():
    a, b = rng().normal(size=7), rng().normal(2, 3, size=20)
    pooled = (6 * a.var(ddof=1) + 19 * b.var(ddof=1)) / 25
    assert sep.cohens_d(a, b) == pytest.approx((a.mean() - b.mean()) / math.sqrt(pooled))


def test_groups_that_do_not_vary():
    assert sep.cohens_d([1, 1], [1]) == 0
    assert sep.cohens_d([1], [2]) == -math.inf
    assert sep.overlap([1, 1], [1, 1]) == 1
    assert sep.overlap([1, 1], [2, 2]) == 0
    assert sep.overlap([1, 1], [0, 1, 2]) == 0


@settings(max_examples=40, deadline=None)
@given(groups, groups, st.floats(0.1, 10), st.floats(-5, 5))
def test_measures_do_not_depend_on_the_scale(a, b, scale, shift):
    for measure in (sep.auc, sep.cohens_d, sep.overlap):
        assert measure(scale * a + shift, scale * b + shift) == pytest.approx(
            measure(a, b), abs=1e-6, rel=1e-6
        )
    assert 0 <= sep.overlap(a, b) <= 1


@pytest.mark.parametrize("bad", [[], [math.nan], [1, math.inf], [[1, 2]]])
def test_what_is_no_group_is_refused(bad):
    with pytest.raises(UsageError, match="group of values"):
        sep.auc(bad, [1.0])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    chance, truth, hits = rng(), norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(200):
        a, b = chance.normal(1, 1, 40), chance.normal(0, 1, 40)
        drawn = sep.draws(40, 300, chance), sep.draws(40, 300, chance)
        low, high = sep.interval(sep.auc_of_draws(a, b, *drawn))
        hits += low <= truth <= high
    assert 0.88 <= hits / 200 <= 0.99


def unit(strength, member, n=60):
    """A unit that responds to two clusters, with the strength of what it sees in each picture."""
    chance = np.random.default_rng(strength)
    return Groups(*(chance.normal(2.0 * on, 0.5, n) for on in member))


def test_keeping_everything_and_making_a_detector_both_score_low():
    before = unit(1, (1, 1, 0))
    whole = specificity(before, before, rng())
    assert whole.fidelity.value == pytest.approx(1)
    assert whole.specificity.value < 0.3
    detector = specificity(before, unit(2, (1, 0, 0)), rng())
    assert detector.separation.value > 0.97
    assert detector.specificity.value < 0.3
    part = Groups(before.cluster, 0.1 * before.other, before.neither)
    own = specificity(before, part, rng()).specificity
    assert own.value > 0.95
    assert own.low <= own.value <= own.high


def test_scores_do_not_depend_on_the_masked_units_scale():
    before, after = unit(1, (1, 1, 0)), unit(2, (1, 0, 0))
    other = Groups(*(1e-3 * part + 7 for part in (after.cluster, after.other, after.neither)))
    one, two = specificity(before, after, rng()), specificity(before, other, rng())
    for name in ("separation", "fidelity", "specificity"):
        assert getattr(one, name).value == pytest.approx(getattr(two, name).value, abs=1e-9)


def test_dissociation_by_hand():
    ones, zeros = np.ones(4), np.zeros(4)
    before = Groups(2 * ones, ones, zeros)
    assert dissociation(before, Groups(zeros, ones, zeros)) == 1
    assert dissociation(before, Groups(zeros, zeros, zeros)) == 0.5  # half a response of the other
    assert dissociation(before, Groups(ones, 2 * ones, zeros)) == 0  # it rose as far as that fell
    assert dissociation(before, before) == 0
    assert dissociation(before, Groups(-9 * ones, ones, zeros)) == 1
    assert dissociation(Groups(-ones, -ones, zeros), Groups(-2 * ones, zeros, zeros)) == 0
    with pytest.raises(UsageError, match="same pictures of other"):
        dissociation(before, Groups(ones, np.ones(3), zeros))


@pytest.mark.parametrize("granularity", ["weight", "kernel", "unit"])
def test_overlap_beside_what_random_masks_share(granularity):
    shapes = {"a.weight": (8, 6, 3, 3), "b.weight": (5, 8, 1, 1)}
    row = torch.zeros(5, 8, 1, 1, dtype=torch.bool)
    row[2] = True
    part = row.flatten(1)[:, 0] if granularity == "unit" else row.flatten(2)[..., 0]
    biases = {"a.weight": "a.bias"} if granularity == "unit" else {}
    candidates = Candidates(
        shapes,
        granularity,
        eligible={"b.weight": row if granularity == "weight" else part},
        biases=biases,
    )
    draw = torch.Generator().manual_seed(0)

    def mask(share):
        keep = {
            name: torch.rand(candidates.element_shape(name), generator=draw) < share
            for name in shapes
        }
        return candidates.mask(keep)

    a, b = mask(0.5), mask(0.4)
    found = chance_overlap(a, b, candidates, rng())
    assert found.iou == pytest.approx(a.iou(b))
    assert found.low <= found.chance <= found.high
    pairs = []
    for _ in range(300):
        other = shuffled(b, candidates, draw)
        assert other.layer_density() == b.layer_density()
        pairs.append(a.iou(other))
    assert np.mean(pairs) == pytest.approx(found.chance, abs=0.02)
    assert np.quantile(pairs, 0.975) == pytest.approx(found.high, abs=0.08)
    same = chance_overlap(a, a, candidates, rng())
    assert same.iou == 1
    assert same.high < 1 or granularity == "unit"


def test_empty_masks_agree():
    candidates = Candidates({"a.weight": (2, 2)})
    nothing = candidates.mask({"a.weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert chance_overlap(nothing, nothing, candidates, rng()).iou == 1
