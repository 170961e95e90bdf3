"""The figures of a laboratory run: pure functions from its tables to figures with their words."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polykit.report import drawing, words
from polykit.report.drawing import Drawn, slug, told_apart
from polykit.report.laboratory import captions, panels, summaries
from polykit.report.laboratory.findings import (
    Findings,
    actual_ratios,
    arms,
    findings,
    layers,
    spread,
    total_dimensionality,
    units,
)
from polykit.report.laboratory.verdict import setting_words
from polykit.report.numbers import Quantity, select
from polykit.report.style import DENSE, WIDTH, dropout_looks, figure_style
from polykit.runtime.store import SavedRun

_ACROSS = 4  # panels beside each other, at most


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    found = findings(run)
    with figure_style():
        return told_apart(_figures(run, found))


def _figures(run: SavedRun, found: Findings) -> Iterator[Drawn | None]:
    yield summaries.forest(found)
    yield summaries.origins(found)
    yield training_curves(run, found)
    actual, dimensionality = actual_ratios(run), total_dimensionality(run)
    weighted = found.values * dimensionality if dimensionality.size else dimensionality
    for place, scenario in enumerate(found.scenarios):
        name = slug(scenario) or f"scenario-{place + 1}"
        yield against_ratio(run, found, found.values, actual, scenario, f"{name}-ratio")
        yield by_layer(run, found, actual, scenario, f"{name}-layers")
        yield against_ratio(
            run, found, weighted, actual, scenario, f"{name}-weighted", weighted=True
        )


def training_curves(run: SavedRun, found: Findings) -> Drawn | None:
    """Draw the headline of the dense networks after each epoch, one panel per scenario."""
    quantity = found.quantity
    table = select(run.tables["epochs"], quantity.metric, quantity.statistic)
    table = table[table["arm"] == DENSE]
    names = [name for name in found.scenarios if name in set(table["scenario"])]
    if not names:
        return None
    style = dropout_looks(found.dropouts)
    figure, cells = drawing.grid(len(names), 2.3, share=False)
    ends = []
    for axes, name in zip(cells, names, strict=True):
        here = table[table["scenario"] == name]
        for dropout in found.dropouts:
            curve = here[here["dropout"] == dropout]
            if curve.empty:
                continue
            look = style[dropout]
            drawing.draw_curve(axes, curve, look.color, look.marker)
            means = curve.groupby("epoch")["value"].mean()
            first, last = float(means.iloc[0]), float(means.iloc[-1])
            ends.append(
                f"{name} {setting_words(dropout)} from {words.number(first)} to "
                f"{words.number(last)}"
            )
        axes.set_title(drawing.wrapped(summaries.called(found, name), 20))
        drawing.fit([axes], here["value"], quantity)
        axes.yaxis.set_major_locator(drawing.ticks(4))
        axes.xaxis.set_major_locator(drawing.ticks(5, whole=True))
    figure.supxlabel("epoch (0: before training)", fontsize=11)
    figure.supylabel(drawing.wrapped(quantity.axis, 36), fontsize=11)
    shown = [share for share in found.dropouts if share in set(table["dropout"])]
    drawing.legend(
        figure,
        [Line2D([], [], color=style[share].color, label=setting_words(share)) for share in shown],
    )
    return Drawn(
        "training",
        f"{words.capital(quantity.summary)} while the dense networks train",
        captions.curves(table),
        f"Line charts. {words.capital('; '.join(ends))}.",
        figure,
    )


def against_ratio(
    run: SavedRun,
    found: Findings,
    values: pd.DataFrame,
    actual: pd.DataFrame,
    scenario: str,
    name: str,
    *,
    weighted: bool = False,
) -> Drawn | None:
    """Draw a quantity against the pruning ratio, one panel for each share of dropout."""
    inside = values[values.index.get_level_values("scenario") == scenario]
    here = actual[actual.index.get_level_values("scenario") == scenario]
    shares = [s for s in found.dropouts if s in set(inside.index.get_level_values("dropout"))]
    quantity = found.quantity
    if weighted:
        quantity = Quantity(
            quantity.metric,
            quantity.statistic,
            f"{quantity.summary} × total feature dimensionality",
            quantity.unit,
        )
    if not shares or not _cut(inside):
        return None
    highest = panels.reach(here, inside)
    figure, cells = drawing.grid(len(shares), 2.7)
    for axes, share in zip(cells, shares, strict=True):
        panels.draw_arms(axes, inside, here, (scenario, share), highest)
        axes.set_title(words.capital(setting_words(share)))
    panels.ratio_axis(cells, highest)
    cells[0].set_ylabel(drawing.wrapped(quantity.axis))
    figure.supxlabel(panels.RATIO_AXIS, fontsize=11)
    drawing.fit(cells, _finite(inside), quantity)
    there = [arm for arm in arms(run) if arm in _there(inside)]
    panels.legend(figure, there, several=captions.worlds([inside])[1] > 1)
    title = f"{scenario}: {quantity.summary} against pruning ratio"
    size = units(run, scenario, layers(run, scenario, found.quantity))
    return Drawn(
        name,
        title,
        captions.arms_caption([inside], there, size, found.noisy(scenario)),
        captions.both_ends(inside, scenario, shares, quantity),
        figure,
        scenario,
    )


def by_layer(
    run: SavedRun, found: Findings, actual: pd.DataFrame, scenario: str, name: str
) -> Drawn | None:
    """Draw the headline against the pruning ratio in each layer, for each share of dropout.

    A network's mean moves when its layers' shares move; within a layer it does not.
    """
    quantity = found.quantity
    rows = run.rows[run.rows["scenario"] == scenario]
    names = layers(run, scenario, quantity)
    tables = {n: spread(rows, quantity.metric, quantity.statistic, n) for n in names}
    tables = {n: table for n, table in tables.items() if len(table) and _cut(table)}
    if len(tables) < 2:
        return None
    everything = panels.shared(tables)
    here = actual[actual.index.get_level_values("scenario") == scenario]
    shares = [s for s in found.dropouts if s in set(everything.index.get_level_values("dropout"))]
    highest = panels.reach(here, everything)
    across = min(len(tables), _ACROSS)
    down = -(-len(tables) // across)
    figure = Figure(figsize=(WIDTH, 1.1 + 2.0 * down * len(shares)), layout="constrained")
    cells = figure.subplots(
        down * len(shares), across, sharex=True, sharey=True, squeeze=False
    ).reshape(len(shares), -1)
    for row, share in zip(cells, shares, strict=True):
        for axes, (layer, table) in zip(row, tables.items(), strict=False):
            panels.draw_arms(axes, table, here, (scenario, share), highest)
            axes.set_title(drawing.wrapped(f"{layer}\n{setting_words(share)}", 72 // across))
        for axes in row[len(tables) :]:
            axes.remove()
    drawn = [axes for row in cells for axes in row[: len(tables)]]
    panels.ratio_axis(drawn, highest)
    figure.supxlabel(panels.RATIO_AXIS, fontsize=11)
    figure.supylabel(drawing.wrapped(quantity.axis, 36), fontsize=11)
    drawing.fit(drawn, _finite(everything), quantity)
    every, size = list(tables.values()), units(run, scenario, tables)
    there = [arm for arm in arms(run) if arm in _there(everything)]
    panels.legend(figure, there, several=captions.worlds(every)[1] > 1)
    caption = captions.arms_caption(every, there, size, found.noisy(scenario))
    return Drawn(
        name,
        f"{scenario}: {quantity.summary} in each layer",
        f"Each panel is a layer. {caption}",
        captions.layers(tables, scenario, shares),
        figure,
        scenario,
    )


def _cut(values: pd.DataFrame) -> bool:
    """Whether some network in a table was pruned."""
    return any(arm in panels.CUT for arm in _there(values))


def _there(values: pd.DataFrame) -> set[str]:
    filled = values.dropna(axis=1, how="all")
    return {str(arm) for arm in filled.columns.get_level_values("arm")}


def _finite(values: pd.DataFrame) -> list[float]:
    flat = (float(value) for value in values.to_numpy(dtype=float).ravel())
    return [value for value in flat if math.isfinite(value)]
