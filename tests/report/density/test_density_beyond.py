"""What the report says beyond the paper: relations, classes' subnetworks, tickets."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polykit.report.density import content, figures, numbers, relations, subnetworks
from polykit.report.density.verdict import sought, verdict
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import TABLES, empty

PRUNERS = ("magnitude", "edge-popup", "iterative-magnitude")
SHARES = dict(zip(PRUNERS, (0.5, 0.2, 0.04), strict=True))
META = {
    "workflow": "density",
    "status": "complete",
    "config": {"ticket_density": 0.1, "class_density": 0.2, "small": 0.4},
    "searched": ["edge-popup", "iterative-magnitude"],
    "trained": ["iterative-magnitude"],
    "plugins": {
        "pruners": [{"label": name} for name in PRUNERS],
        "metrics": [
            {"label": "ig", "name": "ig", "headline": "ratio", "columns": {}},
            {"label": "none", "name": "none", "headline": "", "columns": {}},
        ],
    },
}


def networks():
    for scale, seed in itertools.product((1.0, 2.0), range(12)):
        yield {"scale": scale, "init": "he", "optimizer": "sgd=1", "seed": seed, "data_seed": 0}


def made(tmp_path, *, value):
    """Write a saved run whose metric is `value(scale, noise, density)`, all three pruners in it."""
    rng = np.random.default_rng(5)
    tables = {name: [] for name in TABLES["density"]}
    for key in networks():
        noise, own = rng.normal(size=2)
        density = 0.5 / key["scale"] + 0.02 * own
        for pruner in PRUNERS:
            share = density * SHARES[pruner] / 0.5
            tables["effective"].append(
                {**key, "pruner": pruner, "parameters": 100, "core": 100 * share, "density": share}
            )
            tables["trajectory"] += [
                {**key, "pruner": pruner, "step": s, "kept": 9, "density": d, "loss": 0.1}
                | {"accuracy": d}
                for s, d in ((0, 1.0), (1, 0.5))
            ]
        statistic = {"layer": "all", "statistic": "ratio"}
        found = value(key["scale"], noise, own)
        tables["rows"].append({**key, "metric": "ig", **statistic, "value": found})
        for name, less in (("dense", 0.0), ("ticket", 1.0), ("random", 0.25)):
            tables["tickets"] += [
                {**key, "network": name, "metric": "ig", **statistic, "value": found - less},
                {
                    **key,
                    "network": name,
                    "metric": "accuracy",
                    "layer": "all",
                    "statistic": "accuracy",
                    "value": 0.9,
                },
            ]
        for name, rho in (("ticket", 0.5), ("random", 0.1)):
            place = {**key, "network": name, "metric": "ig", "layer": "all", "units": 9}
            tables["alike"] += [
                {**place, "statistic": "ratio", "value": rho + 0.01 * key["seed"]},
                {**place, "statistic": "entropy", "value": -1.0},
            ]
        for mask, label in itertools.product(("whole", "random", "0", "1"), (0, 1)):
            aucs = {"whole": 1.0, "random": 0.6, str(label): 0.9}
            alone = mask in ("whole", "random")
            tables["classes"].append(
                {
                    **key,
                    "mask": mask,
                    "class": label,
                    "auc": aucs.get(mask, 0.8),
                    "iou": np.nan if alone else 1.0 if mask == str(label) else 0.3,
                    "chance": np.nan if alone else 0.1,
                }
            )
    frames = {
        name: pd.DataFrame(rows) if rows else empty("density", name)
        for name, rows in tables.items()
    }
    return SavedRun(tmp_path, META, frames)


@pytest.fixture
def run(tmp_path):
    return made(tmp_path, value=lambda scale, noise, own: 5 / scale + 0.1 * noise)


# --- correlations -------------------------------------------------------------------------------


def test_correlations_are_those_of_scipy(run):
    table = relations.pairs(run, "magnitude", relations.quantities(run)[0])
    x, y = table["density"], table["value"]
    found = {(r.scope, r.kind): r for r in relations.relations(run, "magnitude")}
    assert set(found) == set(itertools.product(("pooled", "within"), ("Spearman", "Pearson")))
    assert found["pooled", "Spearman"].value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["pooled", "Pearson"].value == pytest.approx(stats.pearsonr(x, y).statistic)
    by = table.groupby("scale")
    left = [c - by[name].transform("mean") for name, c in (("density", x), ("value", y))]
    assert found["within", "Pearson"].value == pytest.approx(stats.pearsonr(*left).statistic)
    ranks = [
        by[name].rank() - by[name].rank().groupby(table["scale"]).transform("mean")
        for name in ("density", "value")
    ]
    assert found["within", "Spearman"].value == pytest.approx(stats.pearsonr(*ranks).statistic)
    assert all(r.n == 24 and r.low <= r.value <= r.high for r in found.values())


def test_what_only_the_width_makes_is_not_found_within_a_width(run, tmp_path):
    found = {(r.scope, r.kind): r for r in relations.relations(run, "magnitude")}
    assert found["pooled", "Spearman"].clear
    assert not found["within", "Spearman"].clear
    real = made(tmp_path, value=lambda scale, noise, own: 5 / scale + 0.3 * own + 0.1 * noise)
    assert all(r.clear for r in relations.relations(real, "magnitude"))
    (line,) = dict(verdict(run).parts)["Density and what metrics find"]
    assert line.startswith(
        "over all 24 networks the effective density by magnitude moves with ig +"
    )
    assert "of one width, initialisation and optimiser it was not found to move with ig" in line


def test_intervals_cover_the_truth_and_shrink_with_networks():
    rng = np.random.default_rng(1)
    widths, inside = {}, 0
    for n in (20, 160):
        cases = []
        for _ in range(25):
            x = rng.normal(size=n)
            y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=n)
            group = np.arange(n) % 2
            cases.append(relations.correlated(x, y, group, "pooled", "Pearson", rng))
        widths[n] = np.mean([high - low for _, low, high in cases])
        inside += sum(low <= 0.5 <= high for _, low, high in cases)
    assert widths[160] < 0.5 * widths[20]
    assert inside >= 41  # of 50, where 47 are expected


def test_what_does_not_vary_has_no_correlation(tmp_path):
    flat = made(tmp_path, value=lambda scale, noise, own: 3.0)
    assert list(relations.relations(flat, "magnitude")) == []
    assert "Density and what metrics find" not in dict(verdict(flat).parts)
    one = made(tmp_path, value=lambda scale, noise, own: own)
    rows = one.tables["effective"]
    alone = SavedRun(tmp_path, META, {**one.tables, "effective": rows[rows["scale"] == 1.0]})
    assert {r.scope for r in relations.relations(alone, "magnitude")} == {"pooled"}
    table = flat.tables["effective"]
    few = SavedRun(tmp_path, META, {**flat.tables, "effective": table[table["seed"] < 2]})
    assert list(relations.relations(few, "magnitude")) == []


# --- the best subnetworks -----------------------------------------------------------------------


def test_the_answer_names_the_best_subnetworks_with_and_without_training(run):
    answer = verdict(run).answer
    wide = [w for w in numbers.widths(run) if w.scale == 2.0]
    assert [w.pruner for w in wide] == list(PRUNERS)
    best = {w.pruner: f"{100 * w.density.mean:.1f}" for w in wide}
    assert (
        f"Without training, the best subnetworks, by edge-popup, need {best['edge-popup']}"
        in answer
    )
    assert f"by iterative-magnitude, need {best['iterative-magnitude']}" in answer
    assert "from scale 1 to 2" in answer.lower()
    assert "edge-popup and iterative-magnitude were asked" in sought(run)
    assert sought(run) in verdict(run).notes
    assert "(by magnitude, sgd=1)" in answer


def test_subnetworks_that_were_sought_are_dots_and_every_pruner_has_a_line(run):
    drawn = {d.name: d for d in figures.draw_all(run)}
    axes = drawn["trajectory"].figure.axes
    assert [len(a.collections) for a in axes] == [2, 2, 2]  # two widths: bands, dots, dots
    assert [len(a.lines) for a in axes] == [2, 0, 0]
    (panel,) = drawn["pruners"].figure.axes
    assert {line.get_label() for line in panel.lines} == set(PRUNERS)


# --- classes and tickets ------------------------------------------------------------------------


def test_classes_are_summed_up_by_network(run):
    first, _ = subnetworks.classes(run)
    told = (first.iou, first.chance, first.own, first.others, first.random, first.whole, first.edge)
    assert [e.mean for e in told] == pytest.approx([0.3, 0.1, 0.9, 0.8, 0.6, 1.0, 0.1])
    assert first.own.n == 12
    table = subnetworks.overlap(run, 1.0)
    assert np.isnan(np.diag(table)).all()
    assert table.loc[0, 1] == pytest.approx(0.3)
    (line, _) = dict(verdict(run).parts)["Subnetworks of classes"]
    assert "IoU; chance 0.1" in line
    assert "(difference +0.1" in line


def test_tickets_are_paired_by_network(run):
    task, ig, *_ = subnetworks.lottery(run)
    assert task.quantity.metric == "accuracy"
    assert task.change.mean == pytest.approx(0.0)
    assert ig.change.mean == pytest.approx(-1.0)
    assert ig.change.half == pytest.approx(0.0, abs=1e-9)
    assert ig.control.mean == pytest.approx(-0.25)
    assert ig.difference.mean == pytest.approx(-0.75)
    *told, last = dict(verdict(run).parts)["Lottery tickets"]
    assert all(line.startswith("scale 2, ") for line in told)
    assert "rank correlation with the dense network" in told[-1]
    assert last == "scale 1: in the tables of tickets"
    first, second = subnetworks.alike(run)
    assert (first.statistic, first.scale, second.scale) == ("ratio", 1.0, 2.0)
    assert first.ticket.mean == pytest.approx(0.555)
    assert first.difference.mean == pytest.approx(0.4)


def test_tables_and_figures_are_there_and_only_where_they_have_numbers(run):
    tables = {table.name: table for table in content.content(run).tables}
    assert {"relations", "classes", "tickets", "alike"} <= set(tables)
    assert "§5.3" not in "".join(d.title for d in figures.draw_all(run))  # ig is not of the paper
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    drawn = {d.name for d in figures.draw_all(run)}
    assert {"pruners", "relations", "class-overlaps", "tickets"} <= drawn
    bare = {name: empty("density", name) for name in ("classes", "tickets", "alike")}
    less = SavedRun(run.path, META, {**run.tables, **bare})
    assert not {"class-overlaps", "tickets"} & {d.name for d in figures.draw_all(less)}
    assert not {"classes", "tickets", "alike"} & {t.name for t in content.content(less).tables}
