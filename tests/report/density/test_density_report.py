"""The density study's numbers against scipy and by hand; its figures, tables, words and page."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from polykit.report.density import content, figures, numbers, panels
from polykit.report.density.verdict import verdict
from polykit.report.page import write_report
from polykit.report.reports import summary
from polykit.runtime.store import SavedRun
from polykit.runtime.tables import TABLES, empty

PARAMETERS = {0.5: 100, 1.0: 200, 2.0: 400}
SHARES = {0.5: (0.7, 0.8, 0.75), 1.0: (0.6, 0.5, 0.45), 2.0: (0.4, 0.42, 0.3)}
META = {
    "workflow": "density",
    "status": "complete",
    "config": {"model": "<b>lenet", "dataset": "digits", "scales": [0.5, 1.0, 2.0], "small": 0.4},
    "plugins": {
        "metrics": [
            {
                "label": "hoyer",
                "name": "hoyer",
                "headline": "mean",
                "columns": {"mean": {"summary": "sparsity"}},
            }
        ]
    },
}


def made(tmp_path, *, inits=("glorot",), pruners=("magnitude",), shares=None):
    """Write a saved run of three seeds; each init and pruner shifts the densities."""
    tables = {name: [] for name in TABLES["density"]}
    for scale, densities in (shares or SHARES).items():
        for init in inits:
            for seed, density in enumerate(densities):
                key = {
                    "scale": scale,
                    "init": init,
                    "optimizer": "sgd=0.1",
                    "seed": seed,
                    "data_seed": 0,
                }
                shifted = density + 0.1 * inits.index(init)
                statistic = {"layer": "all", "statistic": "mean"}
                tables["rows"] += [
                    {**key, "metric": "hoyer", **statistic, "value": scale + 0.01 * seed},
                    {
                        **key,
                        "metric": "small-weights",
                        "layer": "<i>fc1",
                        "statistic": "overlap",
                        "value": 0.1,
                    },
                ]
                for epoch in (1, 2):
                    losses = {"loss": 1 / epoch, "validation_loss": 1 / epoch + scale}
                    tables["history"].append(
                        {**key, "epoch": epoch, **losses, "validation_accuracy": 1 - 0.1 / epoch}
                    )
                tables["correct"] += [
                    {**key, "sample": n, "correct": (n * (seed + 2)) % 7 < 5 + scale}
                    for n in range(30)
                ]
                for pruner in pruners:
                    share = shifted + 0.1 * pruners.index(pruner)
                    count = PARAMETERS[scale]
                    tables["effective"].append(
                        {
                            **key,
                            "pruner": pruner,
                            "parameters": count,
                            "core": share * count,
                            "density": share,
                        }
                    )
                    tables["trajectory"] += [
                        {
                            **key,
                            "pruner": pruner,
                            "step": step,
                            "kept": count * (2 - step) // 2,
                            "density": 1 - step / 2,
                            "loss": 0.1 + step,
                            "accuracy": 0.9 - 0.4 * step,
                        }
                        for step in (0, 1, 2)
                    ]
    frames = {
        name: pd.DataFrame(rows) if rows else empty("density", name)
        for name, rows in tables.items()
    }
    return SavedRun(tmp_path, META, frames)


@pytest.fixture
def run(tmp_path):
    return made(tmp_path)


def test_the_null_hypothesis_keeps_the_core_of_the_counterpart(run):
    table = numbers.with_null(numbers.effective(run))
    for _, row in table.iterrows():
        core = SHARES[1.0][row["seed"]] * 200
        assert row["null"] == pytest.approx(min(1.0, core / row["parameters"]))
    found = {w.scale: w for w in numbers.widths(run)}
    assert found[0.5].null == pytest.approx(np.mean([1.0, 1.0, 0.9]))
    assert found[1.0].null == pytest.approx(found[1.0].density.mean)
    assert found[2.0].null == pytest.approx(np.mean([0.3, 0.25, 0.225]))
    assert found[2.0].null_sd == pytest.approx(np.std([0.3, 0.25, 0.225], ddof=1))


def test_without_a_counterpart_there_is_no_null(run):
    table = run.tables["effective"]
    lone = table[(table["scale"] != 1.0) | (table["seed"] != 2)]
    nulls = numbers.with_null(lone).set_index(["scale", "seed"])["null"]
    assert nulls.isna().sum() == 2
    assert nulls[0.5, 0] == 1.0
    wide = table[table["scale"] != 1.0]
    assert numbers.reference(wide) == 0.5  # a factor of two from 1, as 2.0 is


def test_tests_are_those_of_scipy(run):
    found = {w.scale: w for w in numbers.widths(run)}
    expected = stats.ttest_ind(SHARES[2.0], [0.3, 0.25, 0.225]).pvalue
    assert found[2.0].p == pytest.approx(expected)
    assert found[1.0].p is None
    ((_, _, part),) = numbers.studies(run)
    cores = [np.array(SHARES[scale]) * PARAMETERS[scale] for scale in SHARES]
    assert numbers.anova(part) == pytest.approx(stats.f_oneway(*cores).pvalue)


def test_what_cannot_be_tested_is_left_out(tmp_path):
    single = made(tmp_path, shares={1.0: (0.5,), 2.0: (0.4,)})
    ((_, _, part),) = numbers.studies(single)
    assert numbers.anova(part) is None
    assert [w.p for w in numbers.widths(single)] == [None, None]
    assert "too few networks of a width" in "".join(verdict(single).parts[0][1])
    alike = np.full(3, 0.5)
    assert numbers.t_test(alike, alike) is None
    assert numbers.kernel_density(alike, np.array([0.5])) is None


def test_the_kernel_density_is_a_density():
    at = np.linspace(-3, 4, 5001)
    curve = numbers.kernel_density(np.array([0.4, 0.45, 0.6]), at)
    assert float(np.trapezoid(curve, at)) == pytest.approx(1.0, abs=1e-3)


def test_networks_that_never_crossed_are_left_out_and_counted(run):
    run.tables["effective"].loc[0, ["core", "density"]] = np.nan
    assert numbers.widths(run)[0].density.n == 2
    assert "1 networks never crossed" in " ".join(verdict(run).notes)
    run.tables["effective"].loc[:, ["core", "density"]] = np.nan
    assert verdict(run).answer.startswith("No network crossed the threshold")
    assert summary(run).empty


def test_the_answer_names_both_ends_and_the_null(run):
    answer = verdict(run).answer
    assert "goes from 75.0\u00a0% to 37.3\u00a0%" in answer
    assert "weights grow 4-fold and the core 1.99-fold" in answer
    assert "the density at scale 2 would be 25.8\u00a0%" in answer
    assert "core sizes differ between widths" in "".join(verdict(run).parts[0][1])


def test_every_figure_of_the_paper_has_its_counterpart(tmp_path):
    drawn = figures.draw_all(made(tmp_path, inits=("glorot", "he"), pruners=("magnitude", "snip")))
    titles = " ".join(figure.title for figure in drawn)
    for number in range(1, 7):
        assert f"(Figure {number} of the paper)" in titles
    assert "(Figures 7 and 8 of the paper)" in titles
    assert "(hoyer) against width (§5.3 of the paper)" in titles
    assert len({figure.name for figure in drawn}) == len(drawn) == 11
    assert all(figure.alt and "nan" not in figure.alt for figure in drawn)
    assert "0.5×: 80.0\u00a0%" in next(f.alt for f in drawn if f.name == "effective-density")


def test_what_the_null_hypothesis_expects_is_told_of_a_width_it_says_something_of(run, tmp_path):
    assert "the density at scale 2 would be" in verdict(run).answer
    narrow = made(tmp_path, shares={scale: SHARES[scale] for scale in (0.5, 1.0)})
    assert "the density at scale 0.5 would be 96.7" in verdict(narrow).answer


def test_axes_can_be_read(run):
    drawn = {figure.name: figure.figure for figure in figures.draw_all(run)}
    (cores,) = drawn["core-size"].axes
    drawn["core-size"].canvas.draw()
    ticks = {tick.get_text() for tick in cores.get_yticklabels(which="both")}
    assert {"30", "100", "300"} <= ticks <= {"10", "30", "100", "300", "1,000"}


def test_intervals_of_accuracy_end_where_accuracy_does(run):
    history = run.tables["history"]
    apart = history.assign(validation_accuracy=history["seed"].map({0: 0.5, 1: 0.95, 2: 0.99}))
    spread = SavedRun(run.path, META, {**run.tables, "history": apart})
    (axes,) = figures.curves(spread, figures.ACCURACY, "Figure 1").figure.axes
    assert 0.99 < axes.get_ylim()[1] < 1.03


def test_every_table_of_the_paper_has_its_counterpart(run):
    tables = {table.name: table for table in content.content(run).tables}
    assert "Table 1" in tables["counts"].title
    assert [row[1].text for row in tables["counts"].rows] == ["100", "200", "400"]
    assert "Table 2" in tables["densities"].title
    assert [row[5].text for row in tables["densities"].rows] == [
        "75.0 ± 5.0\u00a0%",
        "51.7 ± 7.6\u00a0%",
        "37.3 ± 6.4\u00a0%",
    ]
    assert "Tables 3 and 4" in tables["overlaps"].title
    assert "chance is 16.0\u00a0%, and 40.0\u00a0% the most" in tables["overlaps"].note
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)


def test_the_page_holds_it_all_and_escapes_names(run):
    page = write_report(run).read_text()
    assert "How dense &lt;b&gt;lenet wants to be on digits" in page
    assert "&lt;i&gt;fc1" in page
    assert "<b>lenet" not in page
    assert "Table 2 of the paper" in page
    assert (run.path / "figures" / "core-size.png").is_file()


def test_an_empty_run_has_a_page(tmp_path):
    tables = {name: empty("density", name) for name in TABLES["density"]}
    nothing = SavedRun(tmp_path, {"workflow": "density", "status": "failed", "config": {}}, tables)
    assert figures.draw_all(nothing) == []
    assert write_report(nothing).is_file()


def test_a_curve_ends_where_most_networks_have():
    lengths = {0: 4, 1: 3, 2: 2}
    table = pd.DataFrame(
        [{"seed": s, "epoch": e} for s, n in lengths.items() for e in range(1, n + 1)]
    )
    assert figures.still_training(table)["epoch"].max() == 3


def test_titles_of_narrow_panels_do_not_run_into_each_other():
    assert panels.title("snip", "sgd=0.1") == "snip\nsgd=0.1"
    lines = panels.title("continuous-sparsification:quantile=0.5", "adam=0.001").split("\n")
    assert max(map(len, lines)) <= panels.TITLE
