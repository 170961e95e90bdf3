"""Metrics taken in several bases at once, and the table that sets them side by side."""

from __future__ import annotations

import pytest

from polykit import session
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.report.analyze.bases import by_basis
from polykit.report.analyze.tables import all_tables
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.analyze.setup import resolve

SMALL = {
    "model": "mlp:widths=8",
    "seeds": (0, 1),
    "epochs": 1,
    "retrain_epochs": 0,
    "pruners": ("magnitude",),
    "densities": (0.5,),
    "control": False,
    "metrics": ("ig", "hoyer:at=pre", "interaction-basis"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "run"
    config = AnalyzeConfig(**SMALL, bases=("interaction", "pca"))
    return session.run(config, Registry.discover(), out=folder)


def labels(**changes):
    return list(resolve(AnalyzeConfig(**{**SMALL, **changes}), Registry.discover()).metrics)


def test_each_metric_that_can_is_taken_in_every_basis():
    found = labels(bases=("interaction",))
    assert found[-5:] == [
        "ig",
        "ig:basis=interaction",
        "hoyer:at=pre",
        "hoyer:at=pre,basis=interaction",
        "interaction-basis",
    ]
    chosen = labels(metrics=("ig:basis=pca", "hoyer"), bases=("interaction",))
    assert chosen[-3:] == ["ig", "hoyer", "hoyer:basis=interaction"]  # the ig chose for itself
    with pytest.raises(UsageError, match="--basis does nothing for selectivity"):
        labels(metrics=("selectivity",), bases=("pca",))


def test_the_table_sets_bases_side_by_side(run):
    table = by_basis(run.saved)
    assert table.columns[4:] == (
        "neuron", "interaction", "pca", "interaction less neuron", "pca less neuron",
    )  # fmt: skip
    assert len(table.rows) == 3 * 2  # three metrics, two networks
    rows = run.rows
    for row, metric, headline in zip(
        table.rows[:4:2], ("ig", "hoyer:at=pre"), ("ratio_responding", "population"), strict=True
    ):
        dense = rows[(rows["pruner"] == "dense") & (rows["layer"] == "all")]
        dense = dense[dense["statistic"] == headline].groupby("metric")["value"].mean()
        ours, theirs = dense[metric], dense[f"{metric},basis=pca".replace("ig,", "ig:")]
        assert row[4].key == pytest.approx(ours)
        assert row[8].key == pytest.approx(theirs - ours)
    assert "bases" in [made.name for made in all_tables(run.saved)]


def test_effective_rank_before_and_after_pruning_like_any_metric(run):
    """Beside that of neurons, for the dense and for the pruned network."""
    rows = run.rows[run.rows["metric"] == "interaction-basis"]
    for statistic in ("effective_rank", "effective_neurons"):
        found = rows[(rows["statistic"] == statistic) & (rows["layer"] == "all")]
        assert set(found["pruner"]) == {"dense", "magnitude"}
        assert (found["value"] > 1).all()
    tables = {made.name: made for made in all_tables(run.saved)}
    place = next(i for i, name in enumerate(tables["results"].columns) if "directions" in name)
    assert all(row[place].key > 1 for row in tables["results"].rows)
    sides = {row[1].text: row for row in tables["bases"].rows if "interaction-basis" in row[0].text}
    for pruner in ("dense", "magnitude"):
        own = rows[(rows["pruner"] == pruner) & (rows["layer"] == "all")]
        means = own.groupby("statistic")["value"].mean()
        neurons, directions = means["effective_neurons"], means["effective_rank"]
        assert "directions that count" in sides[pruner][0].text
        assert [cell.key for cell in sides[pruner][4:6]] == pytest.approx([neurons, directions])
        assert sides[pruner][7].key == pytest.approx(directions - neurons)


def test_a_run_in_one_basis_has_no_such_table(run, tmp_path):
    config = AnalyzeConfig(**{**SMALL, "seeds": (0,), "metrics": ("ig",), "pruners": ()})
    alone = session.run(config, Registry.discover(), out=tmp_path / "alone")
    assert not by_basis(alone.saved).rows
