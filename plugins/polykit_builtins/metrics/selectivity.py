"""Class selectivity: how much more a unit responds to one class than to the others."""

from __future__ import annotations

from operator import add
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polykit.api import Field, StreamingMetric
from polykit.errors import DataError
from polykit.runtime.passes.capture import Reduce, unit_values
from polykit.types import At, Batch, Column, Measurement, Subject

EPSILON = 1e-12
"""Keeps 0 / 0 away; far below any activation that means something."""


class Sums(NamedTuple):
    """What one layer has added up: plain sums, so chunks of any size give the same."""

    counts: Tensor  # [classes] samples
    totals: Tensor  # [classes, units] Σ v, float64
    absolute: Tensor  # [units] Σ |v|, float64


class Selectivity(StreamingMetric):
    """Class selectivity of each unit, from its mean activation μ_c on every class.

    With μ_max the largest and μ_rest the mean of the other classes' μ, each class counting alike:
    `difference` μ_max − μ_rest, and `index` (μ_max − μ_rest) / (|μ_max| + |μ_rest| + ε). For
    non-negative activations that is the published index; the absolute values keep it in [0, 1]
    for others, where it is 1 as soon as the two means differ in sign. Classes without samples are
    left out. Units that are zero on every sample are silent: 0, with preferred class −1. Source:
    Morcos et al. 2018, arXiv:1803.06959, §3; Schoots et al., Propensity for Density.
    """

    columns: ClassVar[dict[str, Column]] = {
        "index": Column("selectivity index; 0 if silent", "", 0, 1),
        "difference": Column("mean on the preferred class − mean of the others'", "activation", 0),
        "preferred": Column("the class a unit responds to most; −1 if silent", "class", -1),
        "silent": Column("units that are zero on every sample", "share", 0, 1),
        "index_responding": Column("mean index of the units that respond", "", 0, 1),
    }
    headline: ClassVar[str] = "index_responding"

    at: Literal["pre", "post"] = Field("post", description="before or after the nonlinearity")
    reduce: Reduce = Field("mean", description="how a unit's map becomes one value")

    @property
    def reads(self) -> tuple[At, ...]:
        """The place that `at` chose."""
        return (self.at,)

    def check(self, subject: Subject) -> None:
        """Raise DataError where the data has no classes."""
        if subject.data.task != "classification":
            raise DataError(
                f"selectivity compares classes and {subject.data.name} is a regression; use data "
                f"with classes, or a metric that needs none, such as hoyer"
            )

    def update(
        self, subject: Subject, state: dict[str, Sums] | None, batch: Batch
    ) -> dict[str, Sums]:
        """Add the chunk to each layer's sums."""
        self.check(subject)
        state = state or {}
        labels, classes = batch.targets.cpu(), subject.data.outputs
        return {
            layer: _add(
                state.get(layer), unit_values(values, self.reduce).cpu().double(), labels, classes
            )
            for layer, values in batch.activations[self.at].items()
        }

    def finish(self, subject: Subject, state: dict[str, Sums]) -> Measurement:
        """Turn the sums into class means and compare them."""
        tables = []
        for layer, (counts, totals, absolute) in state.items():
            present = counts.nonzero().squeeze(1)
            if len(present) < 2:
                raise DataError(
                    f"selectivity compares classes, but all test samples of {subject.data.name} "
                    f"are of class {present.item()}; bring test samples of a second class"
                )
            silent = absolute == 0
            difference, index, best = selectivity(totals[present] / counts[present].unsqueeze(1))
            columns = {
                "index": index.numpy(),
                "difference": difference.numpy(),
                "preferred": present[best].masked_fill(silent, -1).numpy(),
                "silent": silent.double().numpy(),
            }
            tables.append(pd.DataFrame({"layer": layer, "unit": np.arange(len(index)), **columns}))
        units = pd.concat(tables, ignore_index=True)
        layers = {str(table["layer"].iloc[0]): _responding(table) for table in tables}
        return Measurement(units, layers, _responding(units))


def selectivity(means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return difference, index and preferred class of each unit from its class means.

    `means` is `[classes, units]`, at least two classes; the results are `[units]`, index in [0, 1].

    >>> selectivity(torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 6.0]]))
    (tensor([2., 6.]), tensor([0.5000, 1.0000]), tensor([0, 2]))
    """
    top, preferred = means.max(dim=0)
    others = means.scatter(0, preferred.unsqueeze(0), 0)
    rest = others.sum(dim=0) / (len(means) - 1)
    difference = (top - rest).clamp(min=0)  # where all are equal, rounding may lift the mean
    return difference, difference / (top.abs() + rest.abs() + EPSILON), preferred


def _add(sums: Sums | None, values: Tensor, labels: Tensor, classes: int) -> Sums:
    """Add unit values `[n, units]` in float64 to a layer's sums."""
    totals = torch.zeros(classes, values.shape[1], dtype=values.dtype)
    counts = torch.bincount(labels, minlength=classes)
    chunk = Sums(counts, totals.index_add_(0, labels, values), values.abs().sum(dim=0))
    return chunk if sums is None else Sums(*map(add, sums, chunk))


def _responding(units: pd.DataFrame) -> dict[str, float]:
    """The mean index over units that respond; nothing where none does."""
    found = units.loc[units["silent"] == 0, "index"]
    return {"index_responding": float(found.mean())} if len(found) else {}
