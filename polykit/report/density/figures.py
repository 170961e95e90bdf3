"""The figures of a density study, counterparts of those of Schoots et al. and named as such."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from sklearn.manifold import TSNE

from polykit.report import drawing, words
from polykit.report.density import numbers
from polykit.report.density.numbers import Width
from polykit.report.density.verdict import percent
from polykit.report.drawing import Drawn, Line, slug, told_apart
from polykit.report.numbers import describe, estimate, metric_records, select
from polykit.report.style import INK, Look, cluster_looks, figure_style
from polykit.runtime.store import SavedRun

_PANEL = 2.9
_FEWEST_DOTS = 5
"""Networks below which a map of correctness vectors shows nothing."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    yield density_by_width(run)
    yield curves(run, "validation_accuracy", "Figure 1", "validation accuracy (share)")
    yield curves(run, "validation_loss", "Figure 2", "validation loss (nats)")
    yield trajectories(run)
    yield distributions(run)
    yield sizes(run)
    yield initialisations(run)
    yield functions(run)
    for record in metric_records(run.meta):
        if record.get("headline"):
            yield headline(run, str(record["label"]), str(record["headline"]))


def _looks(scales: Sequence[float]) -> dict[float, Look]:
    found = cluster_looks(range(len(scales)))
    return {scale: found[place] for place, scale in enumerate(scales)}


def _scales(table: pd.DataFrame) -> list[float]:
    return sorted(float(scale) for scale in table["scale"].unique())


def _legend(figure: Figure, scales: Sequence[float]) -> None:
    looks = _looks(scales)
    drawing.legend(
        figure,
        [
            Line2D([], [], color=looks[s].color, marker=looks[s].marker, label=f"{s:g}×")
            for s in scales
        ],
    )


def _scale_axis(axes: Axes, scales: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(scales) / 1.4, max(scales) * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(list(scales)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{scale:g}×" for scale in scales])


def density_by_width(run: SavedRun) -> Drawn | None:
    """Draw the effective density against the width, beside what the null hypothesis expects."""
    found = numbers.widths(run)
    groups = list(dict.fromkeys((w.pruner, w.optimizer) for w in found))
    if not groups:
        return None
    figure, cells = drawing.grid(len(groups), _PANEL)
    for axes, group in zip(cells, groups, strict=True):
        rows = [w for w in found if (w.pruner, w.optimizer) == group]
        line = Line("found", [(w.scale, w.density) for w in rows])
        drawing.draw_line(axes, line, Look("#0072b2", "o"))
        expected = [(w.scale, w.null) for w in rows if w.null is not None]
        axes.plot(*zip(*expected, strict=True), "--", color=INK, label="null hypothesis")
        axes.set_title(drawing.wrapped(", ".join(group)))
        axes.set_ylim(0, 1.05)
        _scale_axis(axes, [w.scale for w in rows])
    cells[0].set_ylabel("effective density\n(share of weights needed)")
    figure.supxlabel("width (factor on the default →)", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    told = [f"{w.pruner}, {w.optimizer}, {w.scale:g}×: {percent(w.density.mean)}" for w in found]
    return Drawn(
        "effective-density",
        "Effective density against width",
        f"{_networks(found)} Dashed: what the null hypothesis expects, that the number of weights "
        "needed does not grow with the width (both as in Table 2 of the paper).",
        f"Line chart of effective density against width. {'; '.join(told)}.",
        figure,
    )


def _networks(found: Sequence[Width]) -> str:
    counts = [w.density.n for w in found]
    low, high = min(counts), max(counts)
    many = str(low) if low == high else f"{low} to {high}"
    bars = " Bars: 95\u00a0% t-interval." if high > 1 else " One network: no interval can be given."
    return f"n = {many} networks of each width.{bars}"


def curves(run: SavedRun, column: str, name: str, axis: str) -> Drawn | None:
    """Draw accuracy or loss against the epoch: the paper's Figures 1 and 2."""
    table = run.tables["history"].dropna(subset=[column])
    groups = list(table.groupby("optimizer"))
    if not groups:
        return None
    scales = _scales(table)
    looks = _looks(scales)
    figure, cells = drawing.grid(len(groups), _PANEL)
    told = []
    for axes, (optimizer, part) in zip(cells, groups, strict=True):
        for scale in scales:
            one = part[part["scale"] == scale].rename(columns={column: "value"})
            if len(one):
                drawing.draw_curve(axes, one, looks[scale].color, looks[scale].marker)
                last = float(one.groupby(list(numbers.NETWORK))["value"].last().mean())
                told.append(f"{optimizer}, {scale:g}×: {words.number(last)} at the end")
        axes.set_title(str(optimizer))
        axes.xaxis.set_major_locator(drawing.ticks(5, whole=True))
    cells[0].set_ylabel(drawing.wrapped(axis))
    figure.supxlabel("epoch", fontsize=11)
    _legend(figure, scales)
    return Drawn(
        slug(column),
        f"{words.capital(axis.partition(' (')[0])} while training ({name} of the paper)",
        "Mean and 95\u00a0% t-interval over the networks that still train at the epoch.",
        f"Line chart of {axis} against epoch. {'; '.join(told)}.",
        figure,
    )


def trajectories(run: SavedRun) -> Drawn | None:
    """Draw accuracy (or loss) against sparsity along the trajectory: the paper's Figure 3."""
    table = run.tables["trajectory"]
    column = "accuracy" if table["accuracy"].notna().any() else "loss"
    groups = [(", ".join(map(str, key)), part) for key, part in table.groupby(numbers.STUDY)]
    if not groups:
        return None
    scales = _scales(table)
    looks = _looks(scales)
    figure, cells = drawing.grid(len(groups), _PANEL)
    told = []
    for axes, (group, part) in zip(cells, groups, strict=True):
        for scale in scales:
            one = part[part["scale"] == scale].groupby("step")
            if not len(one):
                continue
            x, y = 1 - one["density"].mean(), one[column].mean()
            spread = one[column].std(ddof=1).fillna(0.0)
            axes.plot(x, y, color=looks[scale].color)
            axes.fill_between(x, y - spread, y + spread, color=looks[scale].color, alpha=0.2, lw=0)
            half = float(y.iloc[len(y) // 2])
            told.append(f"{group}, {scale:g}×: {words.number(half)} at half the weights")
        axes.set_title(drawing.wrapped(group))
    cells[0].set_ylabel(f"validation {column}")
    figure.supxlabel("sparsity (share of weights removed →)", fontsize=11)
    _legend(figure, scales)
    return Drawn(
        "trajectory",
        f"Validation {column} along the pruning trajectory (Figure 3 of the paper)",
        "Mean and standard deviation over networks. Nothing is retrained.",
        f"Line chart of {column} against sparsity. {'; '.join(told)}.",
        figure,
    )


def distributions(run: SavedRun) -> Drawn | None:
    """Draw the distribution of effective densities: the paper's Figure 4."""
    groups = [
        (group, part)
        for *group, part in numbers.studies(run)
        if any(_kde(one) is not None for _, one in part.groupby("scale"))
    ]
    if not groups:
        return None
    scales = _scales(numbers.effective(run))
    looks = _looks(scales)
    figure, cells = drawing.grid(len(groups), _PANEL, share=False)
    at = np.linspace(0, 1, 501)
    told = []
    for axes, (group, part) in zip(cells, groups, strict=True):
        for scale in _scales(part):
            if (curve := _kde(part[part["scale"] == scale])) is not None:
                axes.plot(at, curve, color=looks[scale].color)
                peak = at[int(curve.argmax())]
                told.append(f"{', '.join(group)}, {scale:g}×: most around {percent(peak)}")
        axes.set_title(drawing.wrapped(", ".join(group)))
        axes.set_ylim(bottom=0)
    cells[0].set_ylabel("frequency (per unit of density)")
    figure.supxlabel("effective density", fontsize=11)
    _legend(figure, scales)
    return Drawn(
        "densities",
        "Distribution of effective densities (Figure 4 of the paper)",
        "Gaussian kernel density estimate, bandwidth by Scott's rule, of the networks of each "
        "width that differ at all.",
        f"Curves of how often an effective density was found. {'; '.join(told)}.",
        figure,
    )


def _kde(part: pd.DataFrame) -> np.ndarray | None:
    return numbers.kernel_density(part["density"].to_numpy(), np.linspace(0, 1, 501))


def sizes(run: SavedRun) -> Drawn | None:
    """Draw weights in all and weights needed: the paper's Figure 5."""
    found = numbers.widths(run)
    groups = list(dict.fromkeys((w.pruner, w.optimizer) for w in found))
    if not groups:
        return None
    figure, cells = drawing.grid(len(groups), _PANEL)
    for axes, group in zip(cells, groups, strict=True):
        rows = [w for w in found if (w.pruner, w.optimizer) == group]
        places = np.arange(len(rows))
        axes.bar(places - 0.2, [w.parameters for w in rows], 0.38, color="#8a8f98", label="all")
        axes.bar(
            places + 0.2,
            [w.core.mean for w in rows],
            0.38,
            yerr=[w.sd * w.parameters for w in rows],
            color="#0072b2",
            ecolor=INK,
            label="core",
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xticks(places, [f"{w.scale:g}×" for w in rows])
        axes.set_title(drawing.wrapped(", ".join(group)))
    cells[0].set_ylabel("weights")
    figure.supxlabel("width", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    told = [
        f"{w.pruner}, {w.optimizer}, {w.scale:g}×: {w.core.mean:,.0f} of {w.parameters:,}"
        for w in found
    ]
    return Drawn(
        "core-size",
        "Weights in all, and weights needed (Figure 5 of the paper)",
        "Core: the weights left at the effective density; bars are standard deviations.",
        f"Bar chart of weights. {'; '.join(told)}.",
        figure,
    )


def initialisations(run: SavedRun) -> Drawn | None:
    """Draw the effective density by initialisation: the paper's Figure 6."""
    table = numbers.effective(run)
    inits = sorted(table["init"].unique())
    if len(inits) < 2:
        return None
    looks = dict(zip(inits, cluster_looks(range(len(inits))).values(), strict=True))
    groups = list(numbers.studies(run))
    figure, cells = drawing.grid(len(groups), _PANEL)
    told = []
    for axes, (pruner, optimizer, part) in zip(cells, groups, strict=True):
        lines = [
            Line(
                init,
                [
                    (float(one["scale"].iloc[0]), estimate(one["density"]))
                    for _, one in part[part["init"] == init].groupby("scale")
                ],
            )
            for init in inits
        ]
        drawing.draw_lines(axes, lines, looks, log=True)
        axes.set_title(drawing.wrapped(f"{pruner}, {optimizer}"))
        _scale_axis(axes, _scales(part))
        told += [
            f"{line.name}, {at:g}×: {percent(value.mean)}"
            for line in lines
            for at, value in line.points
        ]
    cells[0].set_ylabel("effective density")
    figure.supxlabel("width", fontsize=11)
    drawing.legend(figure, cells[0].get_legend_handles_labels()[0])
    return Drawn(
        "initialisation",
        "Effective density by initialisation (Figure 6 of the paper)",
        "Mean and 95\u00a0% t-interval over networks.",
        f"Line chart of effective density against width. {'; '.join(told)}.",
        figure,
    )


def functions(run: SavedRun) -> Drawn | None:
    """Map which samples each network gets right: the paper's Figures 7 and 8."""
    table = run.tables["correct"]
    table = table[table["data_seed"] == table["data_seed"].min()]
    groups = []
    for optimizer, part in table.groupby("optimizer"):
        vectors = part.pivot_table(
            index=["scale", "init", "seed"], columns="sample", values="correct", aggfunc="first"
        ).astype(float)
        if len(vectors) >= _FEWEST_DOTS:
            groups.append((str(optimizer), vectors))
    if not groups:
        return None
    scales = _scales(table)
    looks = _looks(scales)
    figure, cells = drawing.grid(len(groups), 3.2, share=False)
    told = []
    for axes, (optimizer, vectors) in zip(cells, groups, strict=True):
        spots = TSNE(
            perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=0
        ).fit_transform(vectors.to_numpy())
        of = vectors.index.get_level_values("scale").to_numpy()
        for scale in scales:
            x, y = spots[of == scale].T
            axes.scatter(x, y, s=28, color=looks[scale].color, marker=looks[scale].marker)
            inside = _disagreement(vectors.to_numpy()[of == scale])
            if inside is not None:
                told.append(f"{optimizer}, {scale:g}×: two networks differ on {percent(inside)}")
        axes.set_title(optimizer)
        axes.set_xticks([])
        axes.set_yticks([])
    _legend(figure, scales)
    return Drawn(
        "functions",
        "Which samples networks get right, by t-SNE (Figures 7 and 8 of the paper)",
        "Each dot is a network; near dots get the same validation samples right. One split of the "
        "data. Distances between far dots mean nothing.",
        f"Scatter plot. {'; '.join(told)} of the validation samples.",
        figure,
    )


def _disagreement(vectors: np.ndarray) -> float | None:
    """Mean share of samples on which two networks differ."""
    if len(vectors) < 2:
        return None
    pairs = np.abs(vectors[:, None] - vectors[None]).mean(2)
    return float(pairs[np.triu_indices(len(vectors), 1)].mean())


def headline(run: SavedRun, metric: str, statistic: str) -> Drawn | None:
    """Draw a metric's headline against the width, a line per optimiser (§5.3 of the paper)."""
    table, quantity = select(run.rows, metric, statistic), describe(run, metric, statistic)
    if table.empty:
        return None
    optimizers = sorted(table["optimizer"].unique())
    looks = dict(zip(optimizers, cluster_looks(range(len(optimizers))).values(), strict=True))
    figure, (axes,) = drawing.grid(1, 3.2)
    lines = [
        Line(
            optimizer,
            [
                (float(one["scale"].iloc[0]), estimate(one["value"]))
                for _, one in table[table["optimizer"] == optimizer].groupby("scale")
            ],
        )
        for optimizer in optimizers
    ]
    drawing.draw_lines(axes, lines, looks, log=True)
    _scale_axis(axes, _scales(table))
    axes.set_ylabel(drawing.wrapped(quantity.axis))
    axes.set_xlabel("width")
    drawing.legend(figure, axes.get_legend_handles_labels()[0])
    told = [
        f"{line.name}, {at:g}×: {words.number(value.mean)}"
        for line in lines
        for at, value in line.points
    ]
    return Drawn(
        slug(f"{metric}-width"),
        f"{words.capital(quantity.noun)} against width (§5.3 of the paper)",
        "Mean and 95\u00a0% t-interval over networks.",
        f"Line chart of {quantity.axis} against width. {'; '.join(told)}.",
        figure,
    )
