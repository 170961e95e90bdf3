from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from polykit.report.laboratory import effects
from polykit.report.numbers import Estimate, estimate


def table(*rows):
    """Values of worlds from (scenario, dropout, seed, arm, ratio, value)."""
    return effects.by_world(pd.DataFrame(rows, columns=[*effects.NETWORK, "value"]))


def world(seed, dense, unpruned, cut, scenario="s", dropout=0.0):
    """One world; `cut` is arm → ratio → value."""
    key = (scenario, dropout, seed)
    yield (*key, "dense", 0.0, dense)
    yield (*key, "unpruned", 0.0, unpruned)
    for arm, values in cut.items():
        for ratio, value in values.items():
            yield (*key, arm, ratio, value)


@pytest.fixture
def values():
    cut = [
        {"pruned": {0.3: 5.0, 0.6: 7.0}, "random": {0.3: 4.0, 0.6: 4.0}, "scratch": {0.3: 6.0}},
        {"pruned": {0.3: 6.0, 0.6: 9.0}, "random": {0.3: 5.0, 0.6: 6.0}, "scratch": {0.3: 8.0}},
        {"pruned": {0.3: 4.0, 0.6: 8.0}, "random": {0.3: 5.5, 0.6: 6.5}, "scratch": {0.3: 3.0}},
    ]
    dense, unpruned = (4.0, 5.0, 8.0), (4.5, 5.1, 7.0)
    return table(*(row for s in range(3) for row in world(s, dense[s], unpruned[s], cut[s])))


def test_contrasts_are_paired_means_over_ratios(values):
    found = {e.contrast: e for e in effects.effects(values)}
    expected = {
        "pruning": [6 - 4.5, 7.5 - 5.1, 6 - 7.0],
        "choice": [6 - 4, 7.5 - 5.5, 6 - 6.0],
        "history": [5 - 6, 6 - 8, 4 - 3.0],  # scratch has one ratio only
        "retraining": [0.5, 0.1, -1.0],
        "total": [2.0, 2.5, -2.0],
    }
    assert set(found) == set(expected)
    for name, each in expected.items():
        test = stats.ttest_1samp(each, 0.0)
        low, high = test.confidence_interval(0.95)
        made = found[name].estimate
        assert (made.mean, made.low, made.high) == pytest.approx((np.mean(each), low, high))
        assert found[name].p == pytest.approx(test.pvalue)
        share, expect = found[name].percent, estimate(100 * np.array(each) / [4.0, 5.0, 8.0])
        assert (share.mean, share.half) == pytest.approx((expect.mean, expect.half))
    assert found["total"].estimate.mean == pytest.approx(
        found["retraining"].estimate.mean + found["pruning"].estimate.mean
    )
    assert found["history"].ratios == (0.3,)
    assert found["pruning"].ratios == (0.3, 0.6)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_the_mixed_model(seed):
    """REML of D_sr = β_r + u_s + e_sr by brute force, and the error of its mean over r."""
    rng = np.random.default_rng(seed)
    worlds, ratios = 6, 4
    noise = rng.normal(0, 0.7, (worlds, 1)) + rng.normal(0, 0.4, (worlds, ratios))
    differences = np.linspace(0.2, 1.0, ratios) + noise
    y = differences.ravel()
    X = np.tile(np.eye(ratios), (worlds, 1))
    groups = np.kron(np.eye(worlds), np.ones((ratios, 1)))

    def parts(log):
        between, within = np.exp(log)
        inverse = np.linalg.inv(between * groups @ groups.T + within * np.eye(len(y)))
        information = X.T @ inverse @ X
        beta = np.linalg.solve(information, X.T @ inverse @ y)
        return inverse, information, beta

    def deviance(log):
        inverse, information, beta = parts(log)
        rest = y - X @ beta
        penalty = np.linalg.slogdet(information)[1] - np.linalg.slogdet(inverse)[1]
        return penalty + rest @ inverse @ rest

    best = minimize(deviance, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9})
    _, information, beta = parts(best.x)
    mean = np.full(ratios, 1 / ratios)
    error = np.sqrt(mean @ np.linalg.solve(information, mean))
    found = estimate(differences.mean(axis=1))
    assert found.mean == pytest.approx(mean @ beta)
    assert found.half == pytest.approx(stats.t.ppf(0.975, worlds - 1) * error, rel=1e-4)


def test_holm_is_the_closed_test_over_all_subsets():
    """Holm rejects a hypothesis where Bonferroni rejects each set of hypotheses that holds it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        chances = rng.random(4) ** 3
        expected = [
            max(
                min(1.0, len(subset) * min(chances[list(subset)]))
                for size in range(1, 5)
                for subset in itertools.combinations(range(4), size)
                if place in subset
            )
            for place in range(4)
        ]
        assert effects.holm(list(chances)) == pytest.approx(expected)


def test_correction_is_within_a_contrast_over_all_settings(values):
    other = values.rename(index={0.0: 0.5}, level="dropout") + 0.0
    both = effects.effects(pd.concat([values, other]))
    alone = {e.contrast: e for e in effects.effects(values)}
    for effect in both:
        p = alone[effect.contrast].p
        assert effect.p == pytest.approx(p)
        assert alone[effect.contrast].corrected == pytest.approx(p)
        assert effect.corrected == pytest.approx(min(1.0, 2 * p))


@settings(max_examples=25, deadline=None)
@given(
    t=st.floats(-60, 60).filter(lambda t: abs(t) > 1e-6),
    n=st.integers(2, 40),
)
def test_standardised_interval_inverts_the_noncentral_t(t, n):
    half = 2.0
    mean = t * half / stats.t.ppf(0.975, n - 1)
    found = effects.standardised(Estimate(mean, n, half))
    assert found.value == pytest.approx(t / np.sqrt(n))
    for end, level in ((found.low, 0.975), (found.high, 0.025)):
        assert stats.nct.cdf(t, n - 1, end * np.sqrt(n)) == pytest.approx(level, abs=1e-6)


def test_standardised_agrees_with_simulation():
    """Draws with true d at either end of the interval exceed the observed t in 2.5 % of cases."""
    found = effects.standardised(estimate([0.3, 1.2, 0.7, 0.1, 1.4]))
    sample = np.array([0.3, 1.2, 0.7, 0.1, 1.4])
    seen = sample.mean() / sample.std(ddof=1)
    rng = np.random.default_rng(1)
    low = rng.normal(found.low, 1, (40_000, 5))
    high = rng.normal(found.high, 1, (40_000, 5))
    assert (low.mean(1) / low.std(1, ddof=1) >= seen).mean() == pytest.approx(0.025, abs=0.004)
    assert (high.mean(1) / high.std(1, ddof=1) <= seen).mean() == pytest.approx(0.025, abs=0.004)


def test_no_spread_and_one_seed_give_no_nan():
    assert effects.p_value(Estimate(0.2, 1)) is None
    assert effects.p_value(Estimate(0.2, 4, 0.0)) == 0.0
    assert effects.p_value(Estimate(0.0, 4, 0.0)) == 1.0
    assert effects.standardised(Estimate(0.2, 4, 0.0)) is None
    assert effects.standardised(Estimate(0.2, 4, 1e-12)) is None
    assert effects.standardised(Estimate(0.2, 1)) is None


def test_balanced_takes_the_largest_block_and_rather_worlds_than_ratios():
    nan = np.nan
    gaps = pd.DataFrame({0.1: [1, 2, 3, nan], 0.5: [1, 2, nan, nan], 0.9: [1, 2, 3, nan]})
    assert effects.balanced(gaps).shape == (3, 2)  # not 2 × 3
    assert list(effects.balanced(gaps).index) == [0, 1, 2]
    assert effects.balanced(gaps.iloc[3:]).size == 0
    whole = gaps.iloc[:2]
    assert effects.balanced(whole).equals(whole)


def test_a_missing_arm_leaves_the_other_contrasts(values):
    names = {e.contrast for e in effects.effects(values.drop(columns="unpruned", level="arm"))}
    assert names == {"choice", "history", "total"}
    names = {e.contrast for e in effects.effects(values.drop(columns="pruned", level="arm"))}
    assert names == {"retraining"}
    assert not effects.effects(values[["dense"]])


def test_a_seed_without_its_partner_does_not_count(values):
    values.loc[("s", 0.0, 1), ("unpruned", 0.0)] = np.nan
    found = {e.contrast: e.estimate for e in effects.effects(values)}
    assert found["pruning"] == estimate([1.5, -1.0])
    assert found["total"].n == 3


def test_trend_is_the_mean_slope_within_worlds():
    rng = np.random.default_rng(3)
    reached = {s: np.array([0.12, 0.35, 0.61]) + rng.normal(0, 0.02, 3) for s in range(4)}
    y = {s: rng.normal(5, 1) + (2 + s) * reached[s] + rng.normal(0, 0.1, 3) for s in range(4)}
    nominal = (0.1, 0.3, 0.6)

    def spread(tables):
        return table(
            *(
                ("s", 0.0, s, "pruned", r, v)
                for s in tables
                for r, v in zip(nominal, tables[s], strict=True)
            )
        )

    found = effects.trends(spread(y), spread(reached), "pruned")
    slopes = [np.polyfit(10 * reached[s], y[s], 1)[0] for s in range(4)]
    made = found["s", 0.0]
    assert (made.mean, made.half) == pytest.approx(
        (np.mean(slopes), estimate(slopes).half), rel=1e-9
    )
    one = effects.trends(spread(y).iloc[:, :1], spread(reached), "pruned")
    assert not one  # a single ratio has no slope
