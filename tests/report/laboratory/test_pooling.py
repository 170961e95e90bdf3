from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polykit.report.laboratory import pooling
from polykit.report.numbers import estimate


def reference(values, **options):
    """SciPy's permutation test of one sample: random signs of each value."""
    return stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, **options
    ).pvalue


@pytest.mark.parametrize("n", [2, 5, 9])
def test_sign_flips_are_exact_for_few_worlds(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    assert pooling.sign_flip(values) == pytest.approx(reference(values))


def test_many_worlds_are_drawn_and_come_near_the_exact_value():
    values = np.random.default_rng(1).normal(0, 1, 17)
    values += 0.35 - values.mean()
    exact = reference(values)
    assert 0.01 < exact < 0.5
    assert pooling.sign_flip(values) == pytest.approx(exact, abs=0.015)
    assert pooling.sign_flip(values) == pooling.sign_flip(values)


def test_least_p_value_and_no_effect():
    assert pooling.sign_flip([1.0] * 5) == 2**-4
    assert pooling.sign_flip([1.0, -1.0]) == 1.0
    assert pooling.sign_flip([0.0, 0.0, 0.0]) == 1.0


def test_random_effects_by_hand():
    """Means 1, 2, 6; variances of the means 1, 2, 4 (n = 2: half the squared distance / 2)."""
    groups = {
        "a": [0.0, 2.0],  # mean 1, s² = 2, s²/n = 1
        "b": [2 - np.sqrt(2), 2 + np.sqrt(2)],  # mean 2, s² = 4, s²/n = 2
        "c": [4.0, 8.0],  # mean 6, s² = 8, s²/n = 4
    }
    # w = 1, ½, ¼: Σw = 1.75, Σw² = 1.3125; mean 2 = (1 + 1 + 1.5)/1.75; Q = 1 + 0 + ¼·16 = 5;
    # scale = 1.75 − 1.3125/1.75 = 1; τ² = (5 − 2)/1 = 3. w* = 1/4, 1/5, 1/7:
    weights = np.array([1 / 4, 1 / 5, 1 / 7])
    means = np.array([1.0, 2.0, 6.0])
    mean = (0.25 + 0.4 + 6 / 7) / weights.sum()
    error = (weights @ (means - mean) ** 2) / (2 * weights.sum())
    found = pooling.random_effects(groups)
    assert found.n == 3
    assert found.mean == pytest.approx(mean)
    assert found.half == pytest.approx(4.302652729911275 * np.sqrt(error))


def test_alike_scenarios_have_no_spread_between_them():
    """Q < k − 1, so τ² = 0 and the weights are those of a fixed effect."""
    groups = {"a": [0.0, 2.0], "b": [1.1 - np.sqrt(2), 1.1 + np.sqrt(2)]}
    assert pooling.random_effects(groups).mean == pytest.approx((1 + 0.55) / 1.5)


def test_scenarios_of_unknown_error_count_alike():
    groups = {"a": [1.0], "b": [2.0, 4.0], "c": [2.0, 2.0]}
    assert pooling.random_effects(groups) == estimate([1.0, 3.0, 2.0])
    assert pooling.random_effects({"a": [1.0, 3.0]}).half is None


def test_pool_counts_worlds_and_scenarios():
    index = pd.MultiIndex.from_tuples(
        [("a", 0.0, 0), ("a", 0.0, 1), ("b", 0.0, 0)], names=["scenario", "dropout", "seed"]
    )
    found = pooling.pool(pd.Series([1.0, 2.0, 6.0], index))
    assert found.scenarios == ("a", "b")
    assert found.worlds == estimate([1.0, 2.0, 6.0])
    assert found.at_large.n == 2
    assert pooling.pool(pd.Series(dtype=float)) is None
    assert pooling.pool(pd.Series([1.0], index[:1])).p is None
