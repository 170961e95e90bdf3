"""The figures of the atlas: how many units split, and those of what lies below the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polykit.report import drawing, words
from polykit.report.below import runs_below
from polykit.report.clusters.ranking import ranked
from polykit.report.dissect.gallery import draw_all as draw_dissection
from polykit.report.drawing import Drawn, slug, told_apart
from polykit.report.style import DENSE_COLOR, INK, WIDTH, figure_style
from polykit.runtime.store import SavedRun

_SPLIT = "#0072b2"
_KINDS = {
    True: ("two clusters or more", _SPLIT, "D"),
    False: ("one or none", DENSE_COLOR, "o"),
}
_NAMED = 5
"""Units whose names stand in the figure; more would hide each other."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw the overview and the figures of every dissection; an empty run has none."""
    with figure_style():
        overview = _overview(run)
    return told_apart([overview, *_below(run)])


def _below(run: SavedRun) -> Iterator[Drawn]:
    for dissection in runs_below(run, "dissections")[0]:
        for drawn in draw_dissection(dissection):
            yield replace(drawn, name=f"{slug(dissection.path.name)}-{drawn.name}")


def _overview(run: SavedRun) -> Drawn | None:
    units = ranked(run)
    if not units:
        return None
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    counts = Counter(int(values.get("clusters", 0)) for _, values in units)
    _counts(left, counts)
    placed = [(n, v) for n, v in units if "silhouette" in v and "stability" in v]
    _places(right, placed)
    drawing.legend(
        figure,
        [
            Line2D([], [], linestyle="", marker=marker, color=color, label=label)
            for label, color, marker in _KINDS.values()
        ],
    )
    split = sum(n for count, n in counts.items() if count > 1)
    told = words.listed([f"{n} with {count}" for count, n in sorted(counts.items())])
    best = words.listed([name for name, values in units[:3] if values.get("clusters", 0) > 1])
    return Drawn(
        "units",
        f"{split} of {len(units)} units split into clusters",
        f"n = {len(units)} units. Left: units by the number of their clusters. Right: how far "
        f"apart the clusters lie and how well they come back from part of the pictures, for the "
        f"{len(placed)} units where both are known; the first of the ranking are named.",
        f"Bar chart of units by number of clusters: {told}. Scatter of stability against "
        f"silhouette.{f' First in the ranking: {best}.' if best else ''}",
        figure,
    )


def _counts(axes: Axes, counts: Counter[int]) -> None:
    numbers = range(max(counts) + 1)
    colors = [_SPLIT if number > 1 else DENSE_COLOR for number in numbers]
    bars = axes.bar(list(numbers), [counts[n] for n in numbers], color=colors, width=0.7)
    axes.bar_label(bars, [str(counts[n] or "") for n in numbers], color=INK, fontsize=10)
    axes.set_xticks(list(numbers))
    axes.set_xlabel("clusters of a unit")
    axes.set_ylabel("units")
    axes.yaxis.set_major_locator(drawing.ticks(4, whole=True))


def _places(axes: Axes, units: list[tuple[str, dict[str, float]]]) -> None:
    for split, (_, color, marker) in _KINDS.items():
        here = [v for _, v in units if (v.get("clusters", 0) > 1) == split]
        axes.plot(
            [values["silhouette"] for values in here],
            [values["stability"] for values in here],
            marker,
            color=color,
            alpha=0.75,
        )
    named = [(name, values) for name, values in units if values.get("clusters", 0) > 1][:_NAMED]
    for name, values in named:
        axes.annotate(
            name[-24:],
            (values["silhouette"], values["stability"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.set_xlabel("silhouette (further apart →)")
    axes.set_ylabel("stability (Jaccard index)")
    axes.set_ylim(-0.04, 1.08)
    axes.set_xlim(min([0.0, *(values["silhouette"] for _, values in units)]) - 0.04, 1.04)
    axes.xaxis.set_major_locator(drawing.ticks(5))
