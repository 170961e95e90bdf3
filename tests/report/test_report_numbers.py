from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polykit.report.analyze import numbers, verdict
from polykit.report.numbers import Estimate, estimate, paired

from .conftest import changed

DENSE = {0: 4.0, 1: 5.0, 2: 6.0}
FORCE = {0: 3.0, 1: 3.5, 2: 5.5}
RANDOM = {0: 3.2, 1: 4.4, 2: 5.0}


def hand_made(run, tables: dict[tuple[str, float, str], dict[int, float]], metric="ig"):
    """Put hand-written headline values in the place of a run's rows."""
    rows = [
        (seed, pruner, density, density, stage, metric, "all", "ratio_responding", value)
        for (pruner, density, stage), values in tables.items()
        for seed, value in values.items()
    ]
    return changed(run, rows=pd.DataFrame(rows, columns=run.rows.columns))


@pytest.fixture
def small(make_run):
    return hand_made(
        make_run(),
        {
            ("dense", 1.0, "dense"): DENSE,
            ("force", 0.1, "pruned"): FORCE,
            ("random", 0.1, "pruned"): RANDOM,
        },
    )


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.3, -0.1], list(range(12))])
def test_estimate_is_scipys_t_interval(values):
    found = estimate(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.n == len(values)


def test_paired_uses_the_seeds_that_both_have():
    ours, theirs = pd.Series({0: 3.0, 1: 5.0, 3: 9.0}), pd.Series({1: 4.0, 0: 2.5, 2: 0.0})
    found = paired(ours, theirs)
    assert found is not None
    assert (found.mean, found.n) == (0.75, 2)
    assert paired(pd.Series({0: 1.0}), pd.Series({1: 1.0})) is None


def test_clear_needs_an_interval_without_zero():
    assert estimate([0.5, 0.5, 0.5]).clear
    assert not estimate([0.0, 0.0, 0.0]).clear
    assert not Estimate(-0.1, 3, 0.2).clear
    assert not Estimate(5.0, 1).clear


def test_comparisons_are_paired_with_dense_and_control(small):
    (quantity,) = numbers.headlines(small)
    force, random = numbers.compare(small, quantity)
    for found, theirs in ((force.change, DENSE), (force.control, RANDOM)):
        test = stats.ttest_rel(list(FORCE.values()), list(theirs.values()))
        low, high = test.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high))
    assert random.control is None
    assert random.change.mean == pytest.approx(-0.8)


def test_answer_gives_change_interval_and_control(small):
    # force − dense = −1, −1.5, −.5: −1 ± 4.303·.5/√3; random − dense = −.8, −.6, −1:
    # −.8 ± 4.303·.2/√3; force − random = −.2, −.9, .5 includes 0.
    answer = verdict.verdict(small).answer
    assert "At density 0.1, right after pruning, polysemanticity of responding units (ig)" in answer
    assert "from 5.00 features per unit in the dense network" in answer
    assert "−1.0 [95\u00a0% interval −2.2, 0.2] with force" in answer
    assert "−0.80 [−1.30, −0.30] with random pruning, the control" in answer
    assert "no difference from random found at this power (3 seeds) for force" in answer


def test_a_clear_difference_from_random_is_told_with_its_number(make_run):
    far = {seed: value - 2 - 0.1 * seed for seed, value in RANDOM.items()}
    run = hand_made(
        make_run(),
        {
            ("dense", 1.0, "dense"): DENSE,
            ("force", 0.1, "retrained"): far,
            ("random", 0.1, "retrained"): RANDOM,
        },
    )
    answer = verdict.verdict(run).answer
    assert "Compared with random pruning: force −2.10 [−2.35, −1.85]." in answer
    assert "no difference" not in answer


def test_one_seed_gives_no_interval_and_says_so(make_run):
    found = verdict.verdict(make_run(seeds=(3,)))
    assert "With one seed no interval can be given" in found.answer
    assert "[" not in found.answer
    assert any("One seed" in note for note in found.notes)


def test_without_control_the_verdict_says_what_cannot_be_told(make_run):
    assert "mere loss of weights" in verdict.verdict(make_run(pruners=("magnitude",))).answer


def test_every_pruner_is_told_of_with_accuracy_dense_and_random(make_run):
    run = make_run()
    found = dict(verdict.verdict(run).parts)
    assert list(found) == ["magnitude", "force", "random"]
    rows = run.rows[(run.rows.metric == "accuracy") & (run.rows.density.isin([0.05, 1.0]))]
    means = rows.groupby(["pruner", "stage"])["value"].mean()
    line = found["force"][0]
    assert f"right after pruning {means['force', 'pruned']:.3f}" in line
    assert f"(random {means['random', 'pruned']:.3f})" in line
    assert f"dense {means['dense', 'dense']:.3f}" in line


def test_places_change_hands_between_densities(make_run):
    notes = verdict.verdict(make_run()).notes
    line = next(note for note in notes if "right after pruning" in note)
    assert "magnitude at density 0.5" in line
    assert "force at density 0.05" in line


def test_silence_is_mentioned_only_where_there_is_much(make_run):
    run = make_run()
    share = numbers.network_mean(run, "ig", "silent", ("force", 0.05, "retrained"))
    assert share > 0.05
    told = dict(verdict.verdict(run).parts)["force"]
    assert any(f"{100 * share:.0f}\u00a0% of its units are silent" in line for line in told)
    dense_enough = verdict.verdict(make_run(densities=(0.5, 0.2)))
    assert not any("silent" in line for _, lines in dense_enough.parts for line in lines)


def test_many_pruners_do_not_bury_the_answer(make_run):
    names = ("magnitude", "force", "snip", "actgrad", "other", "random")
    answer = verdict.verdict(make_run(pruners=names)).answer
    assert answer.count(" with ") == 5  # three pruners, the control, and "Compared with"
    assert "the other 2 pruners are below" in answer
    assert "(3 seeds) for the other 4 pruners." in answer


def test_a_missing_value_is_told_of(make_run):
    run = make_run()
    gone = (run.rows.pruner == "force") & (run.rows.density == 0.05)
    found = verdict.verdict(changed(run, rows=run.rows[~gone]))
    assert "No value there for force" in found.answer
    assert any("No accuracy or loss at density 0.05" in line for line in found.parts[1][1])
    silent = run.rows.statistic.eq("ratio_responding") & run.rows.density.eq(0.05)
    rows = run.rows.assign(value=run.rows.value.where(~silent, np.nan))
    answer = verdict.verdict(changed(run, rows=rows)).answer
    assert answer.startswith("At density 0.1")
    assert "Below density 0.1 it has no value" in answer


def test_regression_speaks_of_loss(make_run):
    run = make_run()
    run = changed(run, rows=run.rows[run.rows.metric != "accuracy"])
    found = verdict.verdict(run)
    assert dict(found.parts)["force"][0].startswith("Loss at density 0.05")
    assert any(note.startswith("Lowest mean loss") for note in found.notes)


def test_an_empty_run_has_no_answer_yet(make_run):
    run = make_run()
    dense = changed(run, rows=run.rows[run.rows.pruner == "dense"])
    for bare in (dense, changed(run, rows=run.rows.iloc[:0])):
        assert "no answer yet" in verdict.verdict(bare).answer


def test_stages_are_named_after_when_it_was_pruned(make_run):
    trained, init = numbers.stage_words({}), numbers.stage_words({"config": {"prune_at": "init"}})
    assert trained["pruned"] == "right after pruning"
    assert init["pruned"] == "before training"
