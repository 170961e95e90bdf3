from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from polykit.report.analyze.panels import density_ticks
from polykit.report.drawing import Line, draw_lines
from polykit.report.numbers import estimate
from polykit.report.reports import draw_all
from polykit.report.style import DENSE_COLOR, INK, looks

from .conftest import changed


@pytest.fixture(scope="module")
def run(make_run):
    return make_run()


@pytest.fixture(scope="module")
def drawn(run):
    return {figure.name: figure for figure in draw_all(run)}


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_every_promised_figure_is_there(drawn):
    assert list(drawn) == ["ig-density", "accuracy-density", "ig-layers", "ig-units", "training"]
    for figure in drawn.values():
        assert figure.title
        assert "seed" in figure.caption
        assert any(character.isdigit() for character in figure.alt)


def test_density_figure_names_axes_units_stages_and_series(drawn):
    figure = drawn["ig-density"].figure
    pruned, retrained = figure.axes
    assert pruned.get_ylabel().replace("\n", " ") == (
        "polysemanticity of responding units (features per unit)"
    )
    assert "density" in figure.get_supxlabel()
    assert [axes.get_title(loc="left") for axes in (pruned, retrained)] == [
        "right after pruning",
        "after retraining",
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["dense", "magnitude", "force", "random (control)"]
    assert "3 seeds" in drawn["ig-density"].caption
    assert "144 units" in drawn["ig-density"].caption
    assert "539 test samples" in drawn["accuracy-density"].caption
    assert "higher is better" in drawn["accuracy-density"].figure.axes[0].get_ylabel()


def test_density_axis_is_logarithmic_and_ticked_at_the_densities(drawn):
    for axes in drawn["ig-density"].figure.axes:
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.5", "0.2", "0.1", "0.05"]
        left, right = axes.get_xlim()
        assert left > right  # pruned harder to the right


def test_many_pruners_at_one_density_all_stand_in_the_frame():
    densities, names = [0.3], [f"pruner-{i}" for i in range(12)]
    lines = [Line(name, [(0.3, estimate([1.0]))]) for name in names]
    axes = Figure().add_subplot()
    draw_lines(axes, lines, looks(names), log=True)
    density_ticks(axes, densities, lines)
    left, right = axes.get_xlim()
    places = [float(line.get_xdata()[0]) for line in axes.get_lines()]
    assert len(set(places)) == 12
    assert left > max(places) * 1.01
    assert right < min(places) / 1.01


def test_lines_are_means_over_seeds_in_the_pruners_look(run, drawn):
    table = looks(["magnitude", "force", "random"])
    axes = drawn["ig-density"].figure.axes[1]
    rows = run.rows[(run.rows.statistic == "ratio_responding") & (run.rows.layer == "all")]
    for name, look in table.items():
        line = lines_of(axes)[name]
        assert to_hex(line.get_color()) == look.color
        assert line.get_linestyle() == look.line
        here = rows[(rows.pruner == name) & (rows.stage == "retrained")]
        expected = here.groupby("density")["value"].mean().sort_index(ascending=False)
        assert line.get_ydata() == pytest.approx(expected.to_numpy())
        assert line.get_xdata() == pytest.approx(expected.index.to_numpy(), rel=0.05)
    assert to_hex(lines_of(axes)["random"].get_color()) == INK
    grey = [line for line in axes.get_lines() if to_hex(line.get_color()) == DENSE_COLOR]
    dense = rows[rows.pruner == "dense"]["value"].mean()
    assert grey[0].get_ydata() == pytest.approx([dense, dense])


def test_intervals_are_drawn_for_several_seeds_only(make_run, drawn):
    def bars(figure):
        return sum(len(c.get_segments()) for c in figure.axes[0].collections)

    assert bars(drawn["ig-density"].figure) == 12  # three pruners at four densities
    single = draw_all(make_run(seeds=(0,)))[0]
    assert bars(single.figure) == 0
    assert "One seed: no interval" in single.caption


def test_points_stand_at_the_density_that_was_achieved(make_run):
    run = make_run(pruners=("magnitude",))
    achieved = run.rows.achieved_density.where(run.rows.density != 0.1, 0.14)
    run = changed(run, rows=run.rows.assign(achieved_density=achieved))
    line = lines_of(draw_all(run)[0].figure.axes[0])["magnitude"]
    assert line.get_xdata() == pytest.approx([0.5, 0.2, 0.14, 0.05])


def test_few_layers_get_a_panel_each_and_many_share_one_per_density(make_run, drawn):
    few = drawn["ig-layers"].figure
    assert [axes.get_title(loc="left") for axes in few.axes] == ["layer 0", "layer 2", "layer 4"]
    names = [f"features.{i}" for i in range(8)]
    many = {f.name: f for f in draw_all(make_run(layers=names, width=4))}["ig-layers"].figure
    assert len(many.axes) == 4
    assert [text.get_text() for text in many.axes[-1].get_xticklabels()] == names
    assert len(lines_of(many.axes[0])["force"].get_ydata()) == 8


def test_histogram_has_shares_of_units_before_and_after(drawn):
    for axes in drawn["ig-units"].figure.axes:
        heights = [patch.get_data().values for patch in axes.patches]
        assert len(heights) == 3
        assert [h.sum() for h in heights] == pytest.approx([1.0, 1.0, 1.0])
    labels = [text.get_text() for text in drawn["ig-units"].figure.legends[0].get_texts()]
    assert labels == ["dense", "right after pruning", "after retraining"]


def test_training_has_one_line_per_seed(drawn):
    dense, retrain = drawn["training"].figure.axes
    assert len(dense.get_lines()) == 3
    assert len(retrain.get_lines()) == 9


def test_a_loss_that_explodes_goes_on_a_log_axis(make_run):
    run = make_run(densities=(0.5,), width=6)
    rows = run.rows[run.rows.metric != "accuracy"]
    huge = (rows.metric == "loss") & (rows.stage == "pruned")
    rows = rows.assign(value=rows.value.where(~huge, rows.value * 100))
    drawn = {f.name: f for f in draw_all(changed(run, rows=rows))}
    assert drawn["loss-density"].figure.axes[0].get_yscale() == "log"


def test_two_metrics_with_alike_labels_get_two_files(make_run, ig_record):
    run = make_run(densities=(0.5,), width=6)
    both = [ig_record, {**ig_record, "label": "IG"}]
    rows = run.rows[run.rows.metric == "ig"].assign(metric="IG")
    meta = {**run.meta, "plugins": {"metrics": both}}
    twice = changed(run, rows=pd.concat([run.rows, rows]), meta=meta)
    names = [figure.name for figure in draw_all(twice)]
    assert len(names) == len(set(names))
    assert {"ig-density", "ig-density-2"} <= set(names)


def test_silent_networks_and_missing_means_are_drawn_without(make_run):
    run = make_run(densities=(0.5, 0.05))
    gone = run.rows.statistic.eq("ratio_responding") & run.rows.density.eq(0.05)
    rows = run.rows.assign(value=run.rows.value.where(~gone, np.nan))
    figure = draw_all(changed(run, rows=rows))[0].figure
    assert len(lines_of(figure.axes[0])["force"].get_ydata()) == 1
