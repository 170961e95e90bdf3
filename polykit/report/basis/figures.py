"""The figures of a run of `basis`: the graphs, how sparse they are, and how modular."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, StrMethodFormatter

from polykit.report import drawing, words
from polykit.report.basis import numbers
from polykit.report.basis.layered import COLORED, MOST, Sketch, draw_graph
from polykit.report.basis.numbers import BASES, ORIGINS, State
from polykit.report.drawing import Drawn, Line, slug, told_apart
from polykit.report.numbers import Estimate, estimate
from polykit.report.style import INK, WIDTH, Look, figure_style
from polykit.runtime.store import SavedRun

LOOKS = {
    "interaction": Look("#0072b2", "o"),
    "neuron": Look("#d55e00", "s"),
    "pca": Look("#009e73", "^"),
}
PANEL = 2.6


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; the trained network's graphs first."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    known = numbers.states(run)
    first = numbers.trained(run)
    if first is not None:
        yield graphs(run, first)
    yield effective_edges(run)
    yield modularity(run)
    for state in known:
        if state != first:
            yield graphs(run, state)


def graphs(run: SavedRun, state: State) -> Drawn | None:
    """Draw the graphs of one network, the first seed's, in every basis and from every origin."""
    setting = numbers.main_setting(run)
    if setting is None:
        return None
    cutoff, resolution = setting
    seeds: list[int] = state.of(run.tables["members"])["seed"].tolist()
    if not seeds:
        return None
    seed = min(seeds)
    origins, bases = numbers.origins(run), numbers.bases(run)
    figure = Figure(figsize=(WIDTH, 0.6 + len(origins) * PANEL), layout="constrained")
    panels = figure.subplots(len(origins), len(bases), squeeze=False)
    layers = [str(layer) for layer in run.meta.get("layers") or ()]
    told = []
    for row, origin in zip(panels, origins, strict=True):
        for axes, basis in zip(row, bases, strict=True):
            found = numbers.modules(run, state, origin, basis, setting)
            axes.set_title(f"{words.capital(BASES[basis])},\n{ORIGINS[origin]}", fontsize=10)
            axes.set_xticks(range(len(layers)), [_tick(layer) for layer in layers], fontsize=8)
            axes.tick_params(length=0)
            if seed not in found.index:
                axes.set_yticks([])
                axes.text(0.5, 0.5, "no edge", ha="center", va="center", transform=axes.transAxes)
                told.append(f"{BASES[basis]}, {ORIGINS[origin]}: no edge above the cutoff")
                continue
            parts = {
                name: _of_graph(run.tables[name], state, seed, origin, basis)
                for name in ("edges", "members", "nodes")
            }
            here = parts["members"]
            here = here[(here["cutoff"] == cutoff) & (here["resolution"] == resolution)]
            strongest = parts["edges"].nlargest(int(found["edges"][seed]), "strength")
            sketch = draw_graph(axes, layers, strongest, here, parts["nodes"])
            told.append(f"{BASES[basis]}, {ORIGINS[origin]}: {_counted(sketch)}")
    return Drawn(
        slug(f"graph-{state.label}"),
        f"What acts on what in the {state.label} network",
        f"Seed {seed}. Layers from left to right; colours are modules at cutoff {cutoff:g} and "
        f"resolution {resolution:g}, the {COLORED} largest; grey edges join two modules. Wider is "
        f"stronger, on a log scale. Of the edges above the cutoff the {MOST} strongest between two "
        f"layers are drawn, and the nodes that they join.",
        f"Layered graphs. {'; '.join(told)}.",
        figure,
    )


def _tick(layer: str) -> str:
    """Write a layer's name under its column."""
    return drawing.shortened(str(words.visible(layer)), 8)


def _of_graph(
    table: pd.DataFrame, state: State, seed: int, origin: str, basis: str
) -> pd.DataFrame:
    own = state.of(table)
    return own[(own["seed"] == seed) & (own["origin"] == origin) & (own["basis"] == basis)]


def _counted(sketch: Sketch) -> str:
    some = "all" if sketch.edges == sketch.all_edges else f"{sketch.edges:,} of"
    return (
        f"{some} {sketch.all_edges:,} edges between {sketch.nodes:,} nodes, "
        f"{sketch.modules:,} modules"
    )


def effective_edges(run: SavedRun) -> Drawn | None:
    """Draw how many interactions count, a row for each state of the network."""
    known, bases, origins = numbers.states(run), numbers.bases(run), numbers.origins(run)
    if not known:
        return None
    figure = Figure(figsize=(WIDTH, 1.4 + 0.45 * len(known)), layout="constrained")
    panels = figure.subplots(1, len(origins), sharex=True, sharey=True, squeeze=False)[0]
    told, means = [], []
    for axes, origin in zip(panels, origins, strict=True):
        for place, basis in enumerate(bases):
            look = LOOKS[basis]
            for row, state in enumerate(known):
                found = numbers.values(run, state, origin, basis, "effective_edges")
                if not (len(found) and (value := estimate(found)).mean > 0):
                    continue
                y = row + 0.16 * (place - (len(bases) - 1) / 2)
                axes.plot(value.mean, y, look.marker, color=look.color, zorder=3)
                axes.hlines(y, max(value.low, 1e-3), value.high, color=look.color, linewidth=1.1)
                means.append(value.mean)
                told.append(
                    f"{BASES[basis]}, {ORIGINS[origin]}, {state.label}: {words.number(value.mean)}"
                )
        axes.set_title(words.capital(ORIGINS[origin]))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if not means:
        return None
    panels[0].set_xlim(min(means) / 2, max(means) * 2)
    panels[0].set_yticks(range(len(known)), [state.label for state in known])
    panels[0].set_ylim(len(known) - 0.5, -0.5)
    figure.supxlabel("interactions that count (← sparser)", fontsize=11)
    handles = [
        Line2D([], [], color=LOOKS[b].color, marker=LOOKS[b].marker, label=BASES[b]) for b in bases
    ]
    drawing.legend(figure, handles)
    return Drawn(
        "effective-edges",
        "How many interactions count",
        f"exp(entropy) of edge strengths, summed over pairs of layers. {_seeds(run)}",
        f"Dot plot of interactions that count, by state of the network. {'; '.join(told)}.",
        figure,
    )


def _seeds(run: SavedRun) -> str:
    count = run.tables["graphs"]["seed"].nunique()
    bars = " Bars: 95\u00a0% t-interval." if count > 1 else " One seed has no interval."
    return f"{words.capital(words.seeds(count))}.{bars}"


def modularity(run: SavedRun) -> Drawn | None:
    """Draw the modularity of the trained networks against the cutoff, beside chance."""
    state = numbers.trained(run)
    table = run.tables["modules"] if state is None else state.of(run.tables["modules"])
    if state is None or table.empty:
        return None
    resolutions = sorted(float(value) for value in table["resolution"].unique())
    cutoffs = sorted(float(value) for value in table["cutoff"].unique())
    origins = numbers.origins(run)
    figure = Figure(figsize=(WIDTH, 1.1 + PANEL * len(origins)), layout="constrained")
    panels = figure.subplots(
        len(origins), len(resolutions), sharex=True, sharey=True, squeeze=False
    )
    told = []
    for row, origin in zip(panels, origins, strict=True):
        for axes, resolution in zip(row, resolutions, strict=True):
            for basis in numbers.bases(run):
                own, chance = (
                    _curve(run, state, origin, basis, column, cutoffs, resolution)
                    for column in ("modularity", "chance_modularity")
                )
                look = LOOKS[basis]
                drawing.draw_line(axes, Line(BASES[basis], own), look)
                drawing.draw_line(axes, Line("", chance), Look(look.color, "None", "--"))
                told += [
                    f"{BASES[basis]}, {ORIGINS[origin]}, resolution {resolution:g}, cutoff "
                    f"{at:g}: {words.number(a.mean)}, by chance {words.number(b.mean)}"
                    for (at, a), (_, b) in zip(own, chance, strict=True)
                ]
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(cutoffs, [f"{cutoff:g}" for cutoff in cutoffs])
            axes.set_xlim(min(cutoffs) / 2, max(cutoffs) * 2)
            axes.set_ylim(-0.1, 1.02)
            axes.set_title(f"{words.capital(ORIGINS[origin])},\nresolution {resolution:g}")
        row[0].set_ylabel("modularity")
    figure.supxlabel("cutoff (share of the variance of the outputs)", fontsize=11)
    handles = [
        Line2D([], [], color=LOOKS[b].color, marker=LOOKS[b].marker, label=BASES[b])
        for b in numbers.bases(run)
    ]
    dashed = Line2D([], [], color=INK, linestyle="--", label="rewired links")
    drawing.legend(figure, [*handles, dashed])
    return Drawn(
        "modularity",
        "How modular the trained networks are, beside chance",
        f"Dashed: links of the same degrees, rewired. {_seeds(run)}",
        f"Line charts of modularity against the cutoff. {'; '.join(told)}.",
        figure,
    )


def _curve(
    run: SavedRun,
    state: State,
    origin: str,
    basis: str,
    column: str,
    cutoffs: Sequence[float],
    resolution: float,
) -> list[tuple[float, Estimate]]:
    points = []
    for cutoff in cutoffs:
        found = numbers.modules(run, state, origin, basis, (cutoff, resolution))
        if len(found):
            points.append((cutoff, estimate(found[column])))
    return points
