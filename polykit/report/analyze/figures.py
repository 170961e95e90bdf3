"""The figures of a run: pure functions from its tables to matplotlib figures with their words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from polykit.report import drawing, words
from polykit.report.analyze import captions, numbers, panels
from polykit.report.analyze.numbers import Network, select_tracked, stage_words
from polykit.report.drawing import Drawn, Line, slug, told_apart
from polykit.report.numbers import Quantity, describe, estimate, finite, select
from polykit.report.style import (
    CONTROL,
    DENSE,
    DENSE_COLOR,
    INK,
    WIDTH,
    LineStyle,
    Look,
    figure_style,
    looks,
)
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

_FEW_LAYERS = 6  # up to here each layer gets a panel; beyond, each density does
_BINS = 30
_STAGE_LINES: dict[str, LineStyle] = {"pruned": ":", "retrained": "-"}


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    main, performance = numbers.headlines(run), numbers.task(run)
    for quantity in main:
        yield against_density(run, quantity)
    if performance:
        yield against_density(run, performance)
    for quantity in main:
        yield by_layer(run, quantity)
    for quantity in main:
        yield unit_histogram(run, quantity)
    yield training_curves(run)
    for quantity in numbers.tracked(run):
        yield while_training(run, quantity)


def against_density(run: SavedRun, quantity: Quantity) -> Drawn | None:
    """Draw a quantity against density, one panel per stage; None if no pruner has a value."""
    table = select(run.rows, quantity.metric, quantity.statistic)
    stages, densities = numbers.stages(run), numbers.densities(run)
    if not stages or table[table["pruner"] != DENSE].empty:
        return None
    names, title = numbers.pruners(run), stage_words(run.meta)
    style = looks(names)
    figure, cells = drawing.grid(len(stages), 2.9)
    for axes, stage in zip(cells, stages, strict=True):
        panels.draw_dense(axes, table)
        lines = panels.density_lines(table, names, densities, stage)
        drawing.draw_lines(axes, lines, style, log=True)
        axes.set_title(drawing.wrapped(title[stage]))
        panels.density_ticks(axes, densities, lines)
    cells[0].set_ylabel(drawing.wrapped(_with_direction(quantity)))
    figure.supxlabel(panels.DENSITY_AXIS, fontsize=11)
    drawing.fit(cells, table["value"], quantity)
    panels.legend(figure, names, style, dense=DENSE in set(table["pruner"]))
    return Drawn(
        slug(f"{quantity.metric}-density"),
        f"{words.capital(quantity.noun)} against density",
        f"{captions.spread(table)} {captions.size(run, quantity)}".strip(),
        captions.both_ends(run, quantity),
        figure,
    )


def by_layer(run: SavedRun, quantity: Quantity) -> Drawn | None:
    """Draw a quantity layer by layer after the last stage; None with fewer than two layers.

    A network's mean moves when its layers' shares move; within a layer it does not.
    """
    rows = run.rows[run.rows["metric"] == quantity.metric]
    layers = [str(layer) for layer in rows["layer"].unique() if layer != ALL_LAYERS]
    found = {layer: select(rows, quantity.metric, quantity.statistic, layer) for layer in layers}
    found = {layer: table for layer, table in found.items() if len(table)}
    stages, densities, names = numbers.stages(run), numbers.densities(run), numbers.pruners(run)
    if len(found) < 2 or not stages:
        return None
    stage, style = stages[-1], looks(names)
    everything = pd.concat(found.values())
    values = {layer: numbers.by_network(table) for layer, table in found.items()}
    if len(found) <= _FEW_LAYERS:
        figure, cells = drawing.grid(len(found), 2.4)
        for axes, (layer, table) in zip(cells, found.items(), strict=True):
            panels.draw_dense(axes, table)
            lines = panels.density_lines(table, names, densities, stage)
            drawing.draw_lines(axes, lines, style, log=True)
            panels.density_ticks(axes, densities, lines)
            axes.set_title(drawing.wrapped(f"layer {layer}", 20))
        figure.supxlabel(panels.DENSITY_AXIS, fontsize=11)
    else:
        figure, cells = drawing.grid(len(densities), 2.8)
        style = {DENSE: Look(DENSE_COLOR, "None"), **style}
        for axes, density in zip(cells, densities, strict=True):
            networks = [numbers.DENSE_NETWORK, *((name, density, stage) for name in names)]
            lines = [_layer_line(values, network) for network in networks]
            drawing.draw_lines(axes, lines, style)
            axes.set_title(f"density {density:g}")
            axes.set_xticks(range(len(found)), list(found), rotation=90, fontsize=8)
        figure.supxlabel("layer, from input to output", fontsize=11)
    figure.supylabel(drawing.wrapped(quantity.axis, 24), fontsize=11)
    drawing.fit(cells, everything["value"], quantity)
    panels.legend(figure, names, style, dense=DENSE in set(everything["pruner"]))
    panel = "Each panel is a layer." if len(found) <= _FEW_LAYERS else "Each panel is a density."
    return Drawn(
        slug(f"{quantity.metric}-layers"),
        f"{words.capital(quantity.noun)} in each layer, {stage_words(run.meta)[stage]}",
        f"{panel} {captions.spread(everything)}",
        captions.layers(values, names, densities[-1], stage),
        figure,
    )


def unit_histogram(run: SavedRun, quantity: Quantity) -> Drawn | None:
    """Draw how a statistic spreads over units, dense and at the lowest density, per pruner."""
    units = run.tables["units"]
    units = units[units["metric"] == quantity.metric]
    densities, names, stages = numbers.densities(run), numbers.pruners(run), numbers.stages(run)
    statistic = _unit_statistic(units, quantity)
    if not statistic or not densities:
        return None
    density = densities[-1]
    table = finite(units[units["statistic"] == statistic])
    here = table[(table["pruner"] != DENSE) & (table["density"] == density)]
    names = [name for name in names if name in set(here["pruner"])]
    if not names:
        return None
    dense = table[table["pruner"] == DENSE]["value"].to_numpy(dtype=float)
    edges = np.histogram_bin_edges(
        np.concatenate([dense, here["value"].to_numpy(dtype=float)]), _BINS
    )
    style, title = looks(names), stage_words(run.meta)
    figure, cells = drawing.grid(len(names), 2.1)
    for axes, name in zip(cells, names, strict=True):
        axes.stairs(_shares(dense, edges), edges, fill=True, color=DENSE_COLOR, alpha=0.45)
        for stage, line in _STAGE_LINES.items():
            values = here[(here["pruner"] == name) & (here["stage"] == stage)]["value"]
            if len(values):
                share = _shares(values.to_numpy(dtype=float), edges)
                axes.stairs(share, edges, color=style[name].color, linestyle=line, linewidth=1.6)
        axes.set_title(f"{name} (control)" if name == CONTROL else drawing.wrapped(name, 28))
        axes.set_xlim(edges[0], edges[-1])
    what = describe(run, quantity.metric, statistic)
    figure.supxlabel(f"{what.axis} of a unit", fontsize=11)
    figure.supylabel("share of units", fontsize=11)
    handles: list[Patch | Line2D] = [Patch(color=DENSE_COLOR, alpha=0.45, label=DENSE)]
    for stage, line in _STAGE_LINES.items():
        if stage in stages:
            handles.append(Line2D([], [], color=INK, linestyle=line, label=title[stage]))
    columns = 1 if sum(len(str(handle.get_label())) for handle in handles) > 60 else 3
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    n, seeds = captions.units_per_network(table), table["seed"].nunique()
    return Drawn(
        slug(f"{quantity.metric}-units"),
        f"{words.capital(what.noun)} of single units at density {density:g}",
        f"{n} units in each network, pooled over {words.seeds(seeds)}. A unit at 0 is silent.",
        captions.units(dense, here, names, title),
        figure,
    )


def training_curves(run: SavedRun) -> Drawn | None:
    """Draw the validation loss of every training, one thin line per seed; None without history."""
    history = run.tables["history"]
    if history.empty:
        return None
    column = "validation_loss" if history["validation_loss"].notna().any() else "loss"
    history = history[np.isfinite(history[column].astype(float))]
    lowest = history[history["pruner"] != DENSE]["density"].min()
    dense = history[history["pruner"] == DENSE]
    retrain = history[(history["pruner"] != DENSE) & (history["density"] == lowest)]
    parts = [(name, part) for name, part in (("dense", dense), ("retrain", retrain)) if len(part)]
    if not parts:
        return None
    names = [name for name in numbers.pruners(run) if name in set(retrain["pruner"])]
    names += sorted(set(retrain["pruner"]) - set(names))
    style = {DENSE: Look(DENSE_COLOR, "None"), **looks(names)}
    titles = {"dense": "training the dense network", "retrain": f"training at density {lowest:g}"}
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    cells = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, (kind, part) in zip(cells, parts, strict=True):
        for (name, _, _), curve in part.groupby(["pruner", "seed", "phase"], sort=False):
            look = style[str(name)]
            axes.plot(
                curve["epoch"],
                curve[column],
                look.line,
                color=look.color,
                linewidth=1.3,
                alpha=0.85,
                marker="." if len(curve) == 1 else None,
            )
        axes.set_title(titles[kind])
    figure.supxlabel("epoch", fontsize=11)
    cells[0].set_ylabel(f"{column.replace('_', ' ')} (lower is better)")
    everything = pd.concat([part for _, part in parts])
    drawing.fit(list(cells), everything[column], Quantity("loss", column, column, low=0.0))
    panels.legend(figure, names, style, dense=len(dense) > 0)
    last = everything.sort_values("epoch").groupby(["pruner", "seed"])[column].last()
    ends = [
        f"{name} {words.number(float(last[name].mean()))}"
        for name in ([DENSE] if len(dense) else []) + names
    ]
    return Drawn(
        "training",
        f"{words.capital(column.replace('_', ' '))} during training",
        f"Each line is one seed ({words.seeds(everything['seed'].nunique())}).",
        f"Line chart. Mean {column.replace('_', ' ')} after the last epoch: {words.listed(ends)}.",
        figure,
    )


def while_training(run: SavedRun, quantity: Quantity) -> Drawn | None:
    """Draw a tracked quantity by layer: the dense network, then the networks pruned hardest."""
    table = select_tracked(run, quantity)
    if table.empty:
        return None
    dense, pruned = table[table["pruner"] == DENSE], table[table["pruner"] != DENSE]
    lowest = pruned["density"].min()
    pruned = pruned[pruned["density"] == lowest]
    names = [name for name in numbers.pruners(run) if name in set(pruned["pruner"])]
    layers = list(dict.fromkeys(table["layer"]))[:_FEW_LAYERS]
    style, after = looks(names), int(dense["epoch"].max()) if len(dense) else 0
    figure, cells = drawing.grid(len(layers), 2.3)
    for axes, layer in zip(cells, layers, strict=True):
        here = dense[dense["layer"] == layer]
        if len(here):
            drawing.draw_curve(axes, here, DENSE_COLOR, ".")
        for name in names:
            curve = pruned[(pruned["pruner"] == name) & (pruned["layer"] == layer)]
            drawing.draw_curve(axes, curve, style[name].color, style[name].marker, after)
        axes.set_title(drawing.wrapped("all layers" if layer == ALL_LAYERS else layer, 20))
        axes.xaxis.set_major_locator(drawing.ticks(5, whole=True))
    drawing.fit(cells, table[table["layer"].isin(layers)]["value"], quantity)
    behind = f"; density {lowest:g} from epoch {after + 1}" if len(pruned) else ""
    figure.supxlabel(f"epoch (training{behind})", fontsize=11)
    figure.supylabel(drawing.wrapped(quantity.axis, 36), fontsize=11)
    panels.legend(figure, names, style, dense=len(dense) > 0)
    ends = table[table["layer"] == layers[0]].groupby(["pruner", "epoch"])["value"].mean()
    told = []
    for name in ([DENSE] if len(dense) else []) + names:
        first, last = float(ends[name].iloc[0]), float(ends[name].iloc[-1])
        told.append(f"{name} from {words.number(first)} to {words.number(last)}")
    return Drawn(
        f"{quantity.metric}-training",
        f"{words.capital(quantity.summary)} while the networks train",
        f"Mean over {words.seeds(table['seed'].nunique())}; bands are 95\u00a0% t-intervals.",
        f"Line charts by layer. {words.capital('; '.join(told))}.",
        figure,
    )


def _layer_line(values: Mapping[str, Mapping[Network, pd.Series[float]]], network: Network) -> Line:
    found = [
        (place, layer[network]) for place, layer in enumerate(values.values()) if network in layer
    ]
    return Line(network[0], [(float(at), estimate(v)) for at, v in found])


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.histogram(values, edges)[0]
    return counts / max(1, len(values))


def _unit_statistic(units: pd.DataFrame, quantity: Quantity) -> str:
    """The per-unit column behind a headline: itself, the one it refines, or the metric's first."""
    names = [str(name) for name in units["statistic"].unique() if name != "silent"]
    matching = [name for name in names if quantity.statistic.startswith(name)]
    return max(matching, key=len) if matching else next(iter(names), "")


def _with_direction(quantity: Quantity) -> str:
    better = {"accuracy": "higher is better", "loss": "lower is better"}.get(quantity.metric)
    return f"{quantity.axis}, {better}" if better else quantity.axis
