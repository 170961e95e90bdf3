from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from polykit.report.laboratory.findings import findings
from polykit.report.laboratory.verdict import OVER_ALL
from polykit.report.reports import verdict

from ..conftest import changed
from .conftest import COMPOSITION, NOISY, NOTHING, RETRAINING, WITHIN, Truth


@pytest.fixture(scope="module")
def told(known):
    return dict(verdict(known).parts)


def only(told, scenario, *starts):
    """The sentences of a scenario that begin so, without the marks of noisy labels."""
    found = [line.removeprefix("* ") for line in told[scenario]]
    return [line for line in found if line.startswith(starts)]


def test_a_pure_composition_effect_is_called_that(told):
    for where in ("Without dropout", "With dropout 0.5"):
        question, origin, trend = only(told, "composition", where)
        assert "pruning raises polysemanticity of responding units beyond retraining" in question
        assert "Within layers no change is found" in question
        assert re.search(r"pruned − random \(control\) \S+ \[.*?\] \(no difference found", question)
        assert "100\u00a0% layer composition" in origin
        assert origin.endswith(
            "So most of it comes from layers losing different shares of their units."
        )
        assert "every tenth of the parameters removed moves it by +0.13" in trend


def test_a_pure_retraining_effect_shows_in_the_control(told):
    for where in ("Without dropout", "With dropout 0.5"):
        question, origin = only(told, "retraining", where)
        assert "no effect of pruning" in question
        assert "found at this power (5 seeds)" in question
        share = int(re.search(r"(\d+)\u00a0% in the no-prune control", origin).group(1))
        assert 90 <= share <= 110
        assert origin.endswith("So most of it shows without any pruning.")


@pytest.mark.parametrize(
    ("retraining", "within", "said"),
    [
        (0.5, 0.5, None),
        (0.8, 0.2, "So most of it shows without any pruning."),
        (0.8, -0.6, "So more than all of it shows without any pruning."),
        (-0.2, -0.8, "So most of it is change within layers."),
    ],
)
def test_most_of_it_is_more_than_half(make_laboratory, retraining, within, said):
    truth = Truth(retraining=retraining, within=within, noise=0.005, dropouts=(0.0,))
    _, origin, *_ = dict(verdict(make_laboratory(a=truth)).parts)["a"]
    share = int(re.search(r"(\d+)\u00a0% in the no-prune control", origin).group(1))
    assert share == pytest.approx(100 * retraining / (retraining + within), abs=10)
    assert origin.endswith(said) if said else "So " not in origin


def test_a_part_that_is_not_clear_is_not_most_of_it(make_laboratory):
    """The whole is the same in every world, its parts are not."""
    run = make_laboratory(a=Truth(retraining=0.8, within=0.2, noise=0.0, dropouts=(0.0,)))
    rows = run.rows.copy()
    wild = rows.seed.map({0: 1.5, 1: -1.5, 2: 1.0, 3: -1.0, 4: 0.0})
    here = rows.arm.eq("unpruned") & rows.statistic.eq("ratio_responding")
    rows["value"] = rows.value.mask(here, rows.value + wild)
    _, origin, *_ = dict(verdict(changed(run, rows=rows)).parts)["a"]
    assert "80\u00a0% in the no-prune control" in origin
    assert "So most" not in origin


@pytest.mark.parametrize("truth", [COMPOSITION, WITHIN], ids=["composition", "within"])
def test_what_pruning_adds_has_an_origin_where_retraining_drowns_the_whole(make_laboratory, truth):
    run = make_laboratory(a=replace(truth, dropouts=(0.0,)))
    rows = run.rows.copy()
    wild = rows.seed.map({0: 1.5, 1: -1.5, 2: 1.0, 3: -1.0, 4: 0.0})
    here = rows.arm.isin(["unpruned", "pruned"]) & rows.statistic.eq("ratio_responding")
    rows["value"] = rows.value.mask(here, rows.value + wild)
    _, origin, *_ = dict(verdict(changed(run, rows=rows)).parts)["a"]
    assert "too uncertain to be shared out" in origin
    said = "So most of what pruning adds comes from layers losing different shares of their units."
    assert (said in origin) == (truth is COMPOSITION)


def test_nothing_is_told_as_nothing(told):
    for where in ("Without dropout", "With dropout 0.5"):
        lines = only(told, "nothing", where)
        assert "no effect of pruning" in lines[0]
        assert "too uncertain to be shared out in per cent" in lines[1]
        assert "%" not in lines[1]


def test_a_change_within_layers_is_told_as_one(told):
    question, origin, *_ = only(told, "within", "Without dropout")
    assert "pruning raises" in question
    assert re.search(r"Within layers it moves by \+0\.4\d+ \[", question)
    assert origin.endswith("So most of it is change within layers.")


def test_noisy_labels_forbid_a_claim_but_the_numbers_stay(told):
    first, *rest = told["noisy"]
    assert first.startswith("Labels too noisy to say: the features explain 0.2")
    assert all(line.startswith("* ") for line in rest)
    text = " ".join(rest)
    assert "raises" not in text
    assert "lowers" not in text
    assert re.search(r"pruned − unpruned \+0\.4\d+ \[", text)


def test_the_answer_pools_what_can_be_read_and_names_the_rest(known):
    found = verdict(known)
    assert "4 scenarios, 20 worlds" in found.answer
    assert "raised in composition and within" in found.answer
    assert "pruned − random" in found.answer
    assert found.answer.endswith("Left out, since their labels are too noisy to say: noisy.")
    over_all = dict(found.parts)[OVER_ALL]
    assert any("all 5 scenarios, noisy ones included" in line for line in over_all)


def test_the_answer_is_that_of_the_tables(known):
    found = findings(known)
    values = known.rows.query(
        "metric == 'ig' and statistic == 'ratio_responding' and layer == 'all' and dropout == 0"
    )
    shares = []
    for name in ("composition", "retraining", "nothing", "within"):
        here = values[values.scenario == name].pivot_table(
            index="seed", columns=["arm", "ratio"], values="value"
        )
        each = here["pruned"].mean(axis=1) - here["unpruned", 0.0]
        shares += list(100 * each / here["dense", 0.0])
    pooled = found.pooled["pruning", 0.0]
    assert pooled.worlds.mean == pytest.approx(np.mean(shares))
    assert found.pooled_all["pruning", 0.0].worlds.n == 25


def test_one_scenario_is_answered_by_its_own_test(make_laboratory):
    found = verdict(make_laboratory(N2=Truth(retraining=0.3, within=-0.5)))
    assert found.answer.startswith(
        "Without dropout, pruning lowered polysemanticity of responding units beyond retraining: −"
    )
    assert "scenario N2, 5 seeds" in found.answer
    assert "p\u00a0<\u00a00.001" in found.answer  # five worlds: a sign-flip test could not say so
    assert OVER_ALL not in dict(found.parts)


def test_no_claim_with_one_seed(make_laboratory):
    found = verdict(make_laboratory(a=Truth(within=0.5, seeds=1), b=Truth(seeds=1)))
    lines = [line for name, part in found.parts if name in ("a", "b") for line in part]
    assert not any("[" in line for line in lines)  # there is none over seeds
    assert sum("with one seed no interval can be given" in line for line in lines) == 4
    assert not re.search("raise|lower", " ".join([found.answer, *lines]))
    assert any("One seed: no interval can be given" in note for note in found.notes)


def test_all_noisy_means_no_answer(make_laboratory):
    found = verdict(make_laboratory(a=NOISY, b=NOISY))
    assert found.answer.startswith("In none of the 2 scenarios")
    assert "0.75" in found.answer


def test_an_unknown_ceiling_forbids_nothing(make_laboratory):
    run = make_laboratory(a=Truth(within=0.5, ceiling=None))
    assert "raised" in verdict(run).answer
    assert not findings(run).noisy("a")
    blind = changed(make_laboratory(a=NOISY), {**run.meta, "threshold": {}})
    assert not findings(blind).noisy("a")


def test_an_interval_without_zero_may_not_survive_correction(make_laboratory):
    """One of many settings barely excludes 0: the family's correction takes the claim back."""
    calm = {f"n{i}": Truth(dropouts=(0.0,)) for i in range(6)}
    run = make_laboratory(edge=Truth(dropouts=(0.0,)), **calm)
    rows = run.rows.copy()
    here = (rows.scenario == "edge") & (rows.layer == "all") & (rows.statistic != "loss")
    rows = rows[~here | ~rows.arm.isin(["pruned", "unpruned"])]
    extra = rows[(rows.scenario == "edge") & (rows.arm == "dense") & (rows.layer == "all")]
    extra = extra[extra.statistic == "ratio_responding"]
    each = dict(zip(range(5), (0.1, 0.5, 0.2, 0.9, 0.4), strict=True))  # p = 0.038
    unpruned = extra.assign(arm="unpruned")
    pruned = extra.assign(
        arm="pruned", ratio=0.5, value=extra.value + extra.seed.map(each).astype(float)
    )
    run = changed(run, rows=pd.concat([rows, unpruned, pruned], ignore_index=True))
    effect = findings(run).effect("edge", 0.0, "pruning")
    assert effect.p < 0.05 < effect.corrected
    (line,) = [line for line in dict(verdict(run).parts)["edge"] if "no effect of pruning" in line]
    assert line.count("The interval excludes 0 by itself, but not after correction.") == 1


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("arm == 'unpruned'", "without the no-prune control its origin cannot be told"),
        ("arm == 'pruned'", "no answer: there are no pruned networks"),
        ("arm == 'random'", "pruned − scratch"),
        ("arm == 'scratch'", "pruned − random"),
        ("arm == 'dense'", "pruned − unpruned"),
        ("layer != 'all'", "layers cannot be told apart"),
    ],
)
def test_missing_arms_are_told_of(make_laboratory, gone, said):
    run = make_laboratory(a=WITHIN, b=COMPOSITION)
    found = verdict(changed(run, rows=run.rows.query(f"not ({gone})")))
    text = " ".join(line for _, lines in found.parts for line in lines)
    assert said in text
    assert not re.search(r"\b(nan|inf|None)\b", f"{found.answer} {text}")


def test_a_missing_seed_is_counted(make_laboratory):
    run = make_laboratory(a=RETRAINING, b=NOTHING)
    gone = "scenario == 'a' and seed == 0 and arm == 'pruned'"
    found = verdict(changed(run, rows=run.rows.query(f"not ({gone})")))
    assert any("4 to 5 seeds (some are missing)" in note for note in found.notes)
    assert "found at this power (4 seeds)" in " ".join(dict(found.parts)["a"])


def test_an_empty_run_has_no_answer_yet(make_laboratory):
    run = make_laboratory(a=NOTHING)
    for rows in (run.rows.iloc[:0], run.rows[run.rows.arm == "dense"]):
        found = verdict(changed(run, rows=rows))
        assert "no answer yet" in found.answer
    assert "no answer yet" in verdict(changed(run, {"workflow": "laboratory"}, rows=rows)).answer


def test_few_worlds_say_what_they_cannot_tell(make_laboratory):
    few = Truth(within=0.5, seeds=2, dropouts=(0.0,))
    found = verdict(make_laboratory(a=few, b=few))
    assert "no effect" in found.answer
    assert any(
        "With 4 worlds the sign-flip test cannot give p below 0.125" in n for n in found.notes
    )
