"""Pictures of the metrics: what they see in a digits network, and what pruning does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from panels_of_density import HEIGHT, draw_against_density, picture_style, two_panels
from runs import DENSITIES, SEEDS, Runs

from polykit.report.numbers import select
from polykit.report.style import DENSE, DENSE_COLOR, INK, WIDTH, looks
from polykit.runtime.training.langevin import langevin

_PRUNER, _HARD = "magnitude", DENSITIES[-1]
_COLOR = looks([_PRUNER])[_PRUNER].color
_DENSE_CELL = f"seed-{SEEDS[0]}-dense"
_PRUNED_CELL = f"seed-{SEEDS[0]}-{_PRUNER}-{_HARD:g}"
_C = 0.1

Panel = Callable[[Axes, Runs], None]


def _beside(metric: str, headline: str, title: str, panel: Panel, runs: Runs) -> Figure:
    """Draw what the metric sees in one network, beside its headline against density."""
    with picture_style():
        figure, left, right = two_panels(left=1.2)
        panel(left, runs)
        draw_against_density(right, runs["measured"], metric, headline, title)
        return figure


def _alone(metric: str, statistic: str, title: str, runs: Runs) -> Figure:
    """Draw a statistic against density, beside nothing."""
    with picture_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw_against_density(figure.subplots(), runs["measured"], metric, statistic, title)
        return figure


def _attributions(axes: Axes, runs: Runs) -> None:
    """Each unit's attributions as shares of its largest, units in order of how many share it."""
    arrays = runs.tensors("measured", _DENSE_CELL, "arrays.safetensors")
    matrix = arrays["dense/ig/attributions"].abs().numpy()[-64:]
    shares = matrix / np.maximum(matrix.max(axis=1, keepdims=True), 1e-12)
    order = np.argsort(shares.sum(axis=1))
    axes.imshow(shares[order].T, cmap="cividis", aspect="auto", interpolation="none")
    axes.set(title="attribution, by unit", xlabel="units of hidden2, ordered", ylabel="class")
    axes.set_yticks(range(0, 10, 3))
    axes.grid(visible=False)


def _by_feature(metric: str, axes: Axes, runs: Runs) -> None:
    """A bar for each class, dense and pruned."""
    for place, (cell, stage, color) in enumerate(
        ((_DENSE_CELL, "dense", DENSE_COLOR), (_PRUNED_CELL, "pruned", _COLOR))
    ):
        values = runs.tensors("measured", cell, "arrays.safetensors")[f"{stage}/{metric}/network"]
        axes.bar(np.arange(len(values)) + 0.4 * place - 0.2, values.numpy(), 0.4, color=color)
    axes.set(title="by class", xlabel="class", ylim=(0, 1))
    axes.set_xticks(range(0, 10, 3))


def _by_unit(metric: str, statistic: str, axes: Axes, runs: Runs) -> None:
    """The values of all units from lowest to highest, dense and pruned."""
    units = runs["measured"].units
    units = units[(units["metric"] == metric) & (units["statistic"] == statistic)]
    units = units[units["seed"] == SEEDS[0]]
    hard = (units["pruner"] == _PRUNER) & (units["density"] == _HARD)
    for part, color, line in (
        (units[units["pruner"] == DENSE], DENSE_COLOR, "-"),
        (units[hard], _COLOR, "--"),
    ):
        values = np.sort(part["value"].to_numpy())
        axes.plot(np.linspace(0, 1, len(values)), values, line, color=color)
    axes.set(title="by unit", xlabel="share of the units", ylim=(0, 1))
    axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))


def _spectrum(axes: Axes, runs: Runs) -> None:
    """D_M from its largest entry on, layer by layer."""
    arrays = runs.tensors("measured", _DENSE_CELL, "arrays.safetensors")
    for layer, line, color in (("hidden1", "-", DENSE_COLOR), ("hidden2", "--", INK)):
        values = arrays[f"dense/interaction-basis/spectrum/{layer}"].numpy()
        places = np.arange(1, 1 + len(values))
        axes.semilogy(places, values, line, color=color, label=layer)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(title="what each direction moves", xlabel="direction")
    axes.legend()


def _reasons(axes: Axes, runs: Runs) -> None:
    """Free directions by their reason, dense and pruned."""
    rows = runs["measured"].rows
    rows = rows[rows["seed"] == SEEDS[0]]
    reasons = ("activations", "jacobians", "rescaling", "synchronised", "shift")
    for place, (part, color) in enumerate(
        (
            (rows[rows["pruner"] == DENSE], DENSE_COLOR),
            (rows[(rows["pruner"] == _PRUNER) & (rows["density"] == _HARD)], _COLOR),
        )
    ):
        values = [_only(part, "synchronisation", f"free_{reason}") for reason in reasons]
        axes.barh(np.arange(len(reasons)) + 0.4 * place - 0.2, values, 0.4, color=color)
    axes.set_yticks(range(len(reasons)), reasons)
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.set(title="free directions, by reason", xlabel="directions")


def _only(rows: pd.DataFrame, metric: str, statistic: str) -> float:
    return float(select(rows, metric, statistic)["value"].iloc[0])


def _chains(runs: Runs) -> Figure:
    """Draw a chain on a loss whose coefficient is known, and what chains find at six scales."""
    powers = np.arange(1, 7)
    found = [
        langevin(
            _crossover,
            torch.zeros(1, dtype=torch.float64),
            temperature=10.0**power,
            localisation=0.0,
            generator=torch.Generator().manual_seed(0),
            chains=512,
        )
        for power in powers
    ]
    with picture_style():
        figure, left, right = two_panels(left=1.2)
        shown = found[3]
        left.plot(shown.losses[:200, 0] * shown.temperature, color=_COLOR, linewidth=0.8)
        left.axhline(shown.estimate, color=INK, linestyle="--")
        left.set(title="nβ · loss of one chain", xlabel="step", ylim=(0, None))
        finer = np.linspace(powers[0], powers[-1], 26)
        right.plot(finer, [_posterior_mean(10**power) for power in finer], "--", color=INK)
        right.plot(powers, [chains.estimate for chains in found], "o", color=_COLOR)
        right.set(title="λ: exact (dashed), found", xlabel="log₁₀ nβ", ylim=(0.2, 0.55))
        return figure


def _posterior_mean(temperature: float) -> float:
    """The mean of nβ L under exp(−nβ L), on a grid that is finer near 0."""
    grid = np.sinh(np.linspace(0, 12, 4001)) / np.sinh(12) * 10
    loss = temperature * _crossover(torch.from_numpy(grid).unsqueeze(1)).numpy()
    weight = np.gradient(grid) * np.exp(-loss)
    return float((weight * loss).sum() / weight.sum())


def _crossover(weights: torch.Tensor) -> torch.Tensor:
    """c²w² + w⁴: a parabola close by, degenerate from afar."""
    return _C**2 * weights[:, 0] ** 2 + weights[:, 0] ** 4


PICTURES: Mapping[str, Callable[[Runs], Figure]] = {
    "ig": partial(_beside, "ig", "ratio_responding", "polysemanticity, mean", _attributions),
    "capacity": partial(
        _beside, "capacity", "capacity", "capacity, mean", partial(_by_feature, "capacity")
    ),
    "feature-dimensionality": partial(
        _beside,
        "feature-dimensionality",
        "total_feature_dimensionality",
        "total dimensionality",
        partial(_by_feature, "feature-dimensionality"),
    ),
    "monosemanticity": partial(
        _beside,
        "monosemanticity",
        "monosemanticity_responding",
        "monosemanticity, mean",
        partial(_by_unit, "monosemanticity", "monosemanticity"),
    ),
    "hoyer": partial(
        _beside,
        "hoyer",
        "population",
        "population sparsity, mean",
        partial(_by_unit, "hoyer", "lifetime"),
    ),
    "selectivity": partial(
        _beside,
        "selectivity",
        "index_responding",
        "selectivity index, mean",
        partial(_by_unit, "selectivity", "index"),
    ),
    "interaction-basis": partial(
        _beside, "interaction-basis", "effective_rank", "effective rank, all layers", _spectrum
    ),
    "synchronisation": partial(
        _beside, "synchronisation", "effective_parameters", "effective parameters", _reasons
    ),
    "learning-coefficient": _chains,
    "loss": partial(_alone, "loss", "loss", "test loss"),
    "accuracy": partial(_alone, "accuracy", "accuracy", "test accuracy"),
    "density": partial(_alone, "density", "effective_density", "effective density"),
    "parameters": partial(_alone, "parameters", "parameters", "parameters"),
    "flops": partial(_alone, "flops", "flops", "operations per sample"),
}
