from __future__ import annotations

import pytest
from matplotlib.colors import to_hex

from polykit.report.reports import draw_all
from polykit.report.style import ARM_LOOKS, DENSE_COLOR, INK, dropout_looks

from .conftest import COMPOSITION, NOISY, Truth


@pytest.fixture(scope="module")
def run(make_laboratory):
    return make_laboratory(N2=COMPOSITION, bad=NOISY)


@pytest.fixture(scope="module")
def drawn(run):
    return {figure.name: figure for figure in draw_all(run)}


def test_every_promised_figure_is_there(drawn):
    of_each = ["ratio", "layers", "weighted"]
    expected = ["effects", "origins", "training"]
    expected += [f"{name}-{kind}" for name in ("n2", "bad") for kind in of_each]
    assert list(drawn) == expected
    for name, figure in drawn.items():
        assert "Mean over 5 seeds" in figure.caption
        assert any(character.isdigit() for character in figure.alt)
        assert figure.section == {"n2": "N2", "bad": "bad"}.get(name.partition("-")[0], "")
    assert "n = 80 units" in drawn["n2-ratio"].caption
    assert "too noisy" in drawn["bad-ratio"].caption
    assert "too noisy" not in drawn["n2-ratio"].caption


def headline(run, dropout, arm, layer="all"):
    return run.rows[
        (run.rows.scenario == "N2")
        & (run.rows.dropout == dropout)
        & (run.rows.arm == arm)
        & (run.rows.layer == layer)
        & (run.rows.statistic == "ratio_responding")
    ]


def test_lines_stand_at_the_ratios_that_were_reached(run, drawn):
    axes = drawn["n2-ratio"].figure.axes[1]
    networks = run.tables["networks"].query("scenario == 'N2' and arm == 'pruned'")
    reached = networks.groupby("ratio")["actual_ratio"].mean()
    assert reached.to_numpy() != pytest.approx(reached.index.to_numpy(), rel=0.01)
    lines = {line.get_label(): line for line in axes.get_lines()}
    for arm in ("pruned", "random", "scratch"):
        expected = headline(run, 0.5, arm).groupby("ratio")["value"].mean()
        assert lines[arm].get_ydata() == pytest.approx(expected.to_numpy())
        assert lines[arm].get_xdata() == pytest.approx(reached.to_numpy(), abs=0.02)
        assert to_hex(lines[arm].get_color()) == ARM_LOOKS[arm].color
    assert lines["random"].get_linestyle() == "--"
    assert to_hex(lines["random"].get_color()) == INK
    grey = [line for line in axes.get_lines() if to_hex(line.get_color()) == DENSE_COLOR]
    means = [float(headline(run, 0.5, arm)["value"].mean()) for arm in ("dense", "unpruned")]
    assert [line.get_ydata()[0] for line in grey] == pytest.approx(means)
    assert [line.get_linestyle() for line in grey] == ["-", ":"]


def test_weighted_is_times_total_feature_dimensionality(drawn):
    plain, weighted = (drawn[f"n2-{kind}"].figure.axes[0] for kind in ("ratio", "weighted"))
    for one, other in zip(plain.get_lines(), weighted.get_lines(), strict=True):
        assert other.get_ydata() == pytest.approx([0.97 * y for y in one.get_ydata()])
    assert "total feature dimensionality" in weighted.get_ylabel().replace("\n", " ")


def test_layers_have_a_panel_each_for_each_dropout(run, drawn):
    cells = drawn["n2-layers"].figure.axes
    titles = [axes.get_title(loc="left") for axes in cells]
    assert titles == [
        "net.0 without dropout",
        "net.2 without dropout",
        "net.0 with dropout 0.5",
        "net.2 with dropout 0.5",
    ]
    line = next(line for line in cells[1].get_lines() if line.get_label() == "pruned")
    expected = headline(run, 0.0, "pruned", "net.2").groupby("ratio")["value"].mean()
    assert line.get_ydata() == pytest.approx(expected.to_numpy())
    assert "Mean over 5 seeds" in drawn["n2-layers"].caption


def test_forest_has_all_contrasts_and_hollow_marks_for_noisy_labels(drawn):
    cells = drawn["effects"].figure.axes
    assert [axes.get_title(loc="left").split("\n")[1] for axes in cells] == [
        "pruned − unpruned",
        "pruned − random",
        "pruned − scratch",
        "unpruned − dense",
        "pruned − dense",
    ]
    style = dropout_looks([0.0, 0.5])
    marks = [line for line in cells[0].get_lines() if line.get_marker() in ("o", "s")]
    assert [line.get_markerfacecolor() for line in marks] == [
        style[0.0].color,
        "none",
        style[0.5].color,
        "none",
    ]
    names = [text.get_text() for text in cells[0].get_yticklabels()]
    assert names == ["N2", "bad *"]  # one readable scenario: nothing to pool
    assert len({round(line.get_ydata()[0], 3) for line in marks}) == 4  # none hides another


def test_stacked_parts_end_at_the_whole_change(run, drawn):
    for axes in drawn["origins"].figure.axes:
        for row in (0, 1):
            bars = [p for p in axes.patches if round(p.get_y() + p.get_height() / 2) == row]
            dots = [
                m for m in axes.get_lines() if m.get_marker() == "o" and m.get_ydata()[0] == row
            ]
            assert len(bars) == 3
            assert sum(bar.get_width() for bar in bars) == pytest.approx(dots[0].get_xdata()[0])


def test_training_curves_are_those_of_the_dense_networks(run, drawn):
    axes = drawn["training"].figure.axes[0]
    epochs = run.tables["epochs"].query("scenario == 'N2' and arm == 'dense' and dropout == 0")
    line = axes.get_lines()[0]
    assert line.get_ydata() == pytest.approx(epochs.groupby("epoch")["value"].mean().to_numpy())
    assert len(axes.collections) == 2  # a band for each share of dropout


def test_many_layers_wrap_and_one_seed_has_no_bars(make_laboratory, monkeypatch):
    monkeypatch.setattr(
        "tests.report.laboratory.conftest.UNITS", {f"net.{i}": 10 for i in range(6)}
    )
    monkeypatch.setattr(
        "tests.report.laboratory.conftest.MEANS", {f"net.{i}": 5.0 + i for i in range(6)}
    )
    monkeypatch.setattr(
        "tests.report.laboratory.conftest._shares",
        lambda truth, ratio: dict.fromkeys((f"net.{i}" for i in range(6)), ratio),
    )
    run = make_laboratory(a=Truth(seeds=1, dropouts=(0.0,), ratios=(0.3, 0.6)))
    drawn = {figure.name: figure for figure in draw_all(run)}
    assert len(drawn["a-layers"].figure.axes) == 6
    drawn["a-layers"].figure.draw_without_rendering()
    for figure in drawn.values():
        assert "One seed: no interval can be given." in figure.caption
    assert not [c for c in drawn["a-ratio"].figure.axes[0].collections if c.get_segments()]
