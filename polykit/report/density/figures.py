"""The figures of a density study, counterparts of those of Schoots et al. and named as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist
from sklearn.manifold import TSNE

from polykit.report import drawing, words
from polykit.report.density import beyond, densities, numbers, panels
from polykit.report.density.verdict import percent
from polykit.report.drawing import Drawn, Line, slug, told_apart
from polykit.report.numbers import Quantity, describe, estimate, label, metric_records, select
from polykit.report.style import cluster_looks, figure_style
from polykit.runtime.store import SavedRun

ACCURACY = Quantity("training", "validation_accuracy", "validation accuracy", "share", 0.0, 1.0)
LOSS = Quantity("training", "validation_loss", "validation loss", "nats", 0.0)

FEWEST_DOTS = 5
"""Networks below which a map of correctness vectors shows nothing."""

DISCUSSED = ("hoyer", "selectivity")
"""Metrics that §5.3 of the paper relates to the width."""


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    with figure_style():
        return told_apart(_figures(run))


def _figures(run: SavedRun) -> Iterator[Drawn | None]:
    yield densities.density_by_width(run)
    yield curves(run, ACCURACY, "Figure 1")
    yield curves(run, LOSS, "Figure 2")
    yield trajectories(run)
    yield densities.distributions(run)
    yield densities.sizes(run)
    yield densities.initialisations(run)
    yield functions(run)
    yield beyond.by_pruner(run)
    yield beyond.moving_together(run)
    yield beyond.class_overlaps(run)
    yield beyond.tickets(run)
    for record in metric_records(run.meta):
        if record.get("headline"):
            yield headline(run, record)


def curves(run: SavedRun, shown: Quantity, name: str) -> Drawn | None:
    """Draw accuracy or loss against the epoch: the paper's Figures 1 and 2."""
    column = shown.statistic
    table = run.tables["history"].dropna(subset=[column])
    groups = list(table.groupby("optimizer"))
    if not groups:
        return None
    scales = panels.scales_of(table)
    looks = panels.width_looks(scales)
    figure, cells = drawing.grid(len(groups), panels.PANEL)
    told = []
    for axes, (optimizer, part) in zip(cells, groups, strict=True):
        for scale in scales:
            one = part[part["scale"] == scale].rename(columns={column: "value"})
            if len(one):
                last = float(one.groupby(list(numbers.NETWORK))["value"].last().mean())
                one = still_training(one)
                drawing.draw_curve(axes, one, looks[scale].color, looks[scale].marker)
                told.append(f"{optimizer}, {scale:g}×: {words.number(last)} at the end")
        axes.set_title(str(optimizer))
        axes.xaxis.set_major_locator(drawing.ticks(5, whole=True))
    drawing.fit(cells, table[column], shown)
    cells[0].set_ylabel(drawing.wrapped(shown.axis))
    figure.supxlabel("epoch", fontsize=11)
    panels.width_legend(figure, scales)
    return Drawn(
        slug(column),
        f"{words.capital(shown.summary)} while training ({name} of the paper)",
        "Mean and 95\u00a0% t-interval over the networks that still train; a line ends where fewer "
        "than half of them do.",
        f"Line chart of {shown.axis} against epoch. {'; '.join(told)}.",
        figure,
    )


def still_training(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the epochs that at least half of the networks reach: few give no interval to look at."""
    networks = table.groupby("epoch")["epoch"].transform("size")
    reached: pd.DataFrame = table[networks >= networks.max() / 2]
    return reached


def trajectories(run: SavedRun) -> Drawn | None:
    """Draw accuracy (or loss) against sparsity along the trajectory: the paper's Figure 3."""
    table = run.tables["trajectory"]
    column = "accuracy" if table["accuracy"].notna().any() else "loss"
    groups = [(key, part) for *key, part in numbers.by_study(run, table)]
    if not groups:
        return None
    scales = panels.scales_of(table)
    looks = panels.width_looks(scales)
    figure, cells = drawing.grid(len(groups), panels.PANEL)
    searched, told = run.meta.get("searched") or [], []
    for axes, (group, part) in zip(cells, groups, strict=True):
        axes.set_title(panels.title(*group))
        for scale in scales:
            rows = part[part["scale"] == scale]
            if group[0] in searched:
                look, x = looks[scale], 1 - rows["density"]
                axes.scatter(x, rows[column], s=22, color=look.color, marker=look.marker)
                told.append(f"{', '.join(group)}, {scale:g}×: {len(rows)} subnetworks as dots")
                continue
            one = rows.groupby("step")
            if not len(one):
                continue
            x, y = 1 - one["density"].mean(), one[column].mean()
            spread = one[column].std(ddof=1).fillna(0.0)
            axes.plot(x, y, color=looks[scale].color)
            axes.fill_between(x, y - spread, y + spread, color=looks[scale].color, alpha=0.2, lw=0)
            half = float(y.iloc[len(y) // 2])
            told.append(f"{', '.join(group)}, {scale:g}×: {words.number(half)} at half the weights")
    cells[0].set_ylabel(f"validation {column}")
    figure.supxlabel("sparsity (share of weights removed →)", fontsize=11)
    panels.width_legend(figure, scales)
    return Drawn(
        "trajectory",
        f"Validation {column} along the pruning trajectory (Figure 3 of the paper)",
        "Mean and standard deviation over networks; nothing is retrained. Dots: subnetworks that "
        "were sought at one density by itself."
        if searched
        else "Mean and standard deviation over networks. Nothing is retrained.",
        f"Line chart of {column} against sparsity. {'; '.join(told)}.",
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
        if len(vectors) >= FEWEST_DOTS:
            groups.append((str(optimizer), vectors))
    if not groups:
        return None
    scales = panels.scales_of(table)
    looks = panels.width_looks(scales)
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
    panels.width_legend(figure, scales, "")
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
    return float(pdist(vectors, "cityblock").mean() / vectors.shape[1])


def headline(run: SavedRun, record: Mapping[str, Any]) -> Drawn | None:
    """Draw a metric's headline against the width, a line per optimiser (§5.3 of the paper)."""
    metric, statistic = label(record), str(record["headline"])
    source = " (§5.3 of the paper)" if record.get("name") in DISCUSSED else ""
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
    panels.width_axis(axes, panels.scales_of(table))
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
        f"{words.capital(quantity.noun)} against width{source}",
        "Mean and 95\u00a0% t-interval over networks.",
        f"Line chart of {quantity.axis} against width. {'; '.join(told)}.",
        figure,
    )
