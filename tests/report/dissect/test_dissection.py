"""What is said and drawn of a dissection, from hand-made tables where the answer is known."""

import math
from pathlib import Path

import pandas as pd
import pytest

from polykit.report.dissect import figures, numbers, verdict
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import empty

TABLES = ("activations", "layers", "overlaps")
GOOD = {"auc": 0.97, "fidelity": 0.95, "specificity": 0.94, "dissociation": 0.6}
MADE = {"auc": 0.96, "fidelity": 0.02, "specificity": 0.02, "dissociation": 0.0}
APART = {"auc": 0.55, "fidelity": 0.6, "specificity": 0.1, "dissociation": 0.0}
UNIT = "conv3:5"


def part(control, read, scores, *, cluster, unit=UNIT, pruner="cs", density=1.0, pictures=30):
    ends = {
        f"{name}_{end}": scores[name] + by
        for name in ("auc", "fidelity", "specificity")
        for end, by in (("low", -0.05), ("high", 0.03))
    }
    statistics = {
        **scores,
        **ends,
        "auc_before": 0.5,
        "achieved_density": 0.04,
        "effective_density": 0.03,
        "pictures_held_out": pictures,
        "drift_rms": 1.5,
    }
    if control == "own":
        statistics |= {"auc_random": 0.5, "auc_random_low": 0.4, "auc_random_high": 0.6}
    return pd.DataFrame(
        {
            "unit": unit,
            "cluster": cluster,
            "control": control,
            "read_unit": read,
            "pruner": pruner,
            "density": density,
            "objective": "contrast",
            "seed": 0,
            "statistic": list(statistics),
            "value": list(statistics.values()),
        }
    )


def parts(own, rivals, **more):
    """Both clusters of one unit: its own part, two other units, two of random weights, labels."""
    places = [("own", UNIT, own), ("labels", UNIT, {**APART, "auc": 0.49})]
    places += [("unit", f"conv3:{i}", scores) for i, scores in enumerate(rivals[:2])]
    places += [("weights", f"conv3:{i}", scores) for i, scores in enumerate(rivals[2:])]
    return [
        part(control, more.get("unit", UNIT) if read == UNIT else read, scores, cluster=c, **more)
        for control, read, scores in places
        for c in (0, 1)
    ]


def saved(frames, **tables):
    rows = pd.concat(frames, ignore_index=True) if frames else empty("dissect", "rows")
    meta = {"workflow": "dissect", "enough": 20, "held_out": 0.4, "config": {"run": "x"}}
    found = {name: tables.get(name, empty("dissect", name)) for name in TABLES}
    return SavedRun(Path("runs/d"), meta, {"rows": rows, **found})


def said(run):
    found = verdict.verdict(run)
    return found.parts[0][1][0]


def test_own_parts_that_no_control_has():
    text = said(saved(parts(GOOD, [MADE, APART, MADE, MADE])))
    assert text.startswith("this unit carries the two features by different parts")
    assert "specificity 0.94 [0.89, 0.97]" in text
    assert "the best of 4 controls has specificity 0.10" in text


def test_own_parts_that_controls_have_too_prove_nothing():
    text = said(saved(parts(GOOD, [GOOD, GOOD, MADE, MADE])))
    assert text.startswith("any unit can be masked into this detector")
    one = said(saved(parts(GOOD, [GOOD, APART, MADE, MADE])))
    assert one.startswith("this unit carries")


def test_a_detector_that_can_be_made_of_anything():
    text = said(saved(parts(MADE, [MADE, APART, MADE, MADE])))
    assert text.startswith("any unit can be masked into this detector")
    assert "AUC 0.96 [0.91, 0.99]" in text
    assert "3 of 4 controls" in text


def test_a_detector_that_is_seldom_in_controls_is_left_undecided():
    text = said(saved(parts(MADE, [MADE, APART, APART, APART])))
    assert text.startswith("the clusters come apart")
    assert "1 of 4 controls" in text


def test_clusters_that_no_mask_tells_apart():
    text = said(saved(parts(APART, [MADE, MADE, MADE, MADE])))
    assert text.startswith("no mask tells the clusters apart")


def test_one_bad_part_spoils_the_unit():
    rows = [
        part(control, read, APART if (control, c) == ("own", 1) else scores, cluster=c)
        for control, read, scores in (("own", UNIT, GOOD), ("unit", "conv3:1", MADE))
        for c in (0, 1)
    ]
    assert said(saved(rows)).startswith("no mask tells")


def test_too_few_pictures_say_nothing_however_good_the_scores():
    text = said(saved(parts(GOOD, [MADE, MADE, MADE, MADE], pictures=19)))
    assert text.startswith("not enough pictures to say")
    assert "19 held-out pictures, and 20 are needed, that is 50 in each" in text


def test_the_best_pruner_decides_and_every_pruner_is_told():
    frames = parts(MADE, [MADE, APART, MADE, MADE])
    frames += parts(GOOD, [APART, APART, APART, APART], pruner="force", density=0.05)
    found = verdict.verdict(saved(frames))
    (unit, sentences), *_ = found.parts
    assert unit == UNIT
    assert sentences[0].startswith("this unit carries")
    assert "force at density 0.05" in sentences[0]
    assert any(text.startswith("By cs,") for text in sentences)
    assert any(text.startswith("By force at density 0.05,") for text in sentences)
    assert found.answer.startswith(f"{UNIT}: this unit carries")


@pytest.mark.parametrize(
    ("iou", "expected"),
    [(0.3, "more than chance"), (0.05, "no more than chance"), (0.0, "less than")],
)
def test_overlap_is_told_beside_chance(iou, expected):
    row = {"unit": UNIT, "pruner": "cs", "density": 1.0, "cluster_a": 0, "cluster_b": 1}
    chance = {"iou": iou, "chance": 0.05, "chance_low": 0.03, "chance_high": 0.07}
    run = saved(parts(MADE, [MADE] * 4), overlaps=pd.DataFrame([{**row, **chance}]))
    assert any(expected in text for text in verdict.verdict(run).parts[0][1])


def test_the_summary_is_of_the_worst_cluster():
    frames = [
        part("own", UNIT, GOOD, cluster=0),
        part("own", UNIT, {**GOOD, "auc": 0.8, "fidelity": 0.7, "specificity": 0.6}, cluster=1),
        part("unit", "conv3:1", MADE, cluster=0),
        part("unit", "conv3:1", APART, cluster=1),
    ]
    row = numbers.summary(saved(frames)).loc[(UNIT, "cs", 1.0)]
    assert row["AUC"] == 0.8
    assert row["specificity"] == 0.6
    assert row["AUC other units"] == 0.55
    assert row["best control"] == 0.02
    assert math.isnan(row["AUC random weights"])


def test_an_empty_run_has_no_answer_and_no_figures():
    run = saved([])
    assert verdict.verdict(run).parts == ()
    assert numbers.summary(run).empty
    assert figures.draw_all(run) == []


def test_figures_show_the_controls_and_say_it_in_words():
    frames = parts(GOOD, [MADE, APART, MADE, MADE])
    frames += parts(MADE, [MADE] * 4, pruner="force", density=0.05)
    frames += parts(MADE, [MADE] * 4, pruner="force", density=0.2)
    frames += parts(GOOD, [MADE] * 4, unit="conv3:<b>$x$")
    drawn = figures.draw_all(saved(frames))
    assert [d.section for d in drawn] == [UNIT, UNIT, "conv3:<b>$x$"]
    assert len({d.name for d in drawn}) == 3
    first = drawn[0]
    assert "shuffled labels 0.49" in first.alt
    assert "other units 0.96 and 0.55" in first.alt
    left, right = first.figure.axes
    own, labels = 3 * 1, 3 * 5  # one filled marker per row, and five hollow ones in each panel
    for axes in (left, right):
        marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
        hollow = [line for line in marks if line.get_markerfacecolor() == "none"]
        assert (len(marks) - len(hollow), len(hollow)) == (own, labels)


@pytest.mark.parametrize("control", ["unit", "weights", "labels"])
def test_a_control_that_is_missing_is_not_made_up(control):
    frames = [f for f in parts(GOOD, [MADE] * 4) if f["control"].iloc[0] != control]
    run = saved(frames)
    assert said(run)
    assert numbers.CONTROLS[control] not in figures.draw_all(run)[0].alt
