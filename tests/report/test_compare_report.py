"""What a comparison's report says of hand-made numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from polykit.report.compare import content, figures, numbers
from polykit.report.compare.verdict import verdict
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import TABLES, empty

HEIGHTS = {"matched": (0.1, 0.01), "unmatched": (0.9, 0.2), "random": (1.0, 0.3)}


def made(tmp_path, *, heights=HEIGHTS, classes=True, pulls=None, distance=10.0):
    """A run of one pair; `pulls` maps strengths to heights to the other and back, after release."""
    rows, path = [], []

    def add(route, statistic, value, stage="compared", strength=0.0, draw=0):
        rows.append(
            {
                "other": "b",
                "route": route,
                "draw": draw,
                "strength": strength,
                "stage": stage,
                "statistic": statistic,
                "value": value,
            }
        )

    def line(route, loss, accuracy, **where):
        add(route, "train_loss_barrier", loss, **where)
        if classes:
            add(route, "train_accuracy_barrier", accuracy, **where)

    for route, (loss, accuracy) in heights.items():
        for draw in range(2 if route == "random" else 1):
            line(route, loss + draw, accuracy, draw=draw)
            for t in (0.0, 0.5, 1.0):
                value = 1.0 + (loss if t == 0.5 else 0.0)
                where = {"other": "b", "route": route, "draw": draw, "t": t}
                path.append({**where, "quantity": "train_loss", "value": value})
    for strength, (there, back) in (pulls or {}).items():
        for stage in ("pulled", "released"):
            where = {"stage": stage, "strength": strength}
            line("to other", there, there / 10, **where)
            line("to first", back, back / 10, **where)
            add("to other", "distance", distance / (1 + 100 * strength), **where)
    if heights:
        add("matched", "distance", distance)
        add("unmatched", "distance", 2 * distance)
        add("functions", "correlation", 0.75)
        add("random weights", "correlation", 0.05)
        if classes:
            add("functions", "agreement", 0.9)
            add("functions", "agreement_by_chance", 0.1)
            add("functions", "kappa", 0.8 / 0.9)
    layers = [
        {"other": "b", "route": route, "layer_a": a, "layer_b": c, "cka": 0.5 if a == c else 0.25}
        for route in ("functions", "random weights")
        for a in ("<i>one", "two")
        for c in ("<i>one", "two")
    ]
    tables = {name: empty("compare", name) for name in TABLES["compare"]}
    tables |= {"rows": pd.DataFrame(rows, columns=list(TABLES["compare"]["rows"]))}
    tables |= {"path": pd.DataFrame(path, columns=list(TABLES["compare"]["path"]))}
    tables |= {"layers": pd.DataFrame(layers if heights else [], columns=list(tables["layers"]))}
    meta = {"workflow": "compare", "status": "complete", "first": "a", "config": {"path": True}}
    return SavedRun(tmp_path, meta, tables)


def told(run):
    return " | ".join(line for _, lines in verdict(run).parts for line in lines)


def test_a_low_barrier_connects_and_a_high_one_does_not(tmp_path):
    found = verdict(made(tmp_path))
    assert found.answer == (
        "a and b are linearly connected up to the order of their units: on the line between them "
        "the training loss rises by 0.100 and the accuracy falls by 1.00 points with units "
        "matched, instead of by 0.900 and 20.0 points as they are."
    )
    assert "2 points" in found.notes[0]
    assert "random orders (control, mean): the training loss rises by 1.50" in told(made(tmp_path))
    far = made(tmp_path, heights={**HEIGHTS, "matched": (0.1, 0.021)})
    assert "a and b are not linearly connected" in verdict(far).answer
    assert "from a distance of 20.0 to 10.0" in told(far)
    assert "on 90.0\u00a0% of the test samples (10.0\u00a0% by chance, κ = 0.889)" in told(far)


@pytest.mark.parametrize(("loss", "connected"), [(0.049, True), (0.051, False)])
def test_without_classes_the_loss_at_the_ends_sets_the_limit(tmp_path, loss, connected):
    run = made(tmp_path, heights={**HEIGHTS, "matched": (loss, None)}, classes=False)
    route = numbers.route(run, "b", "matched")
    assert route.limit == pytest.approx(0.05)
    assert route.connected is connected
    assert "5.0\u00a0%" in verdict(run).notes[0]
    assert "their outputs correlate by 0.750 (0.0500 with random weights)" in told(run)


def test_what_a_pull_did(tmp_path):
    heights = {**HEIGHTS, "matched": (0.8, 0.08)}
    pulls = {0.0: (0.8, 0.0), 0.1: (0.5, 0.1), 1.0: (0.15, 0.3), 10.0: (0.1, 0.4)}
    run = made(tmp_path, heights=heights, pulls=pulls)
    assert "from λ = 1 on the first network stays connected with the other" in told(run)
    assert "it has lost the connection with its own beginning" in told(run)
    bent = {**pulls, 1.0: (0.15, 0.15)}
    assert "a bent way joins the two" in told(made(tmp_path, heights=heights, pulls=bent))
    weak = {0.0: (0.8, 0.0), 0.01: (0.7, 0.1)}
    text = told(made(tmp_path, heights=heights, pulls=weak))
    assert "none brings the first network to where it is connected" in text
    assert "50.0\u00a0% of the way to it was left: more --epochs" in text
    free = {**pulls, 0.0: (0.1, 0.3)}
    assert "it takes no pull" in told(made(tmp_path, heights=heights, pulls=free))


def test_figures_and_tables_of_what_is_there(tmp_path):
    run = made(tmp_path, pulls={0.0: (0.8, 0.0), 1.0: (0.1, 0.2)})
    drawn = {one.name: one for one in figures.draw_all(run)}
    assert set(drawn) == {"line-train_loss", "layers", "pull"}
    assert "units matched: 1.00 at the first, 1.10 at 0.5" in drawn["line-train_loss"].alt
    assert "<i>one 0.50" in drawn["layers"].alt
    tables = {table.name: table for table in content.content(run).tables}
    assert [row[1].text for row in tables["pairs"].rows] == ["matched", "unmatched", "random"]
    assert len(tables["pulls"].rows) == 2 * 2 * 2
    assert numbers.summary(run).loc[("b", "compared", 0.0, "matched"), "distance"] == 10


def test_an_empty_run_says_so(tmp_path):
    run = made(tmp_path, heights={})
    assert verdict(run).answer == "No pair of networks was compared."
    assert figures.draw_all(run) == []
    assert numbers.summary(run).empty
    assert content.content(run).tables == []
