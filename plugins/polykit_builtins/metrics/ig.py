"""Polysemanticity by integrated gradients: how much of which feature each unit takes up.

All of it is importable without a run: `attribution_matrix`, then `polysemanticity`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from polykit.api import Field
from polykit.types import Column, Measurement, Subject
from polykit_builtins.metrics.attribution import attribution_matrix, captum_attribution_matrix
from polykit_builtins.metrics.feature_metric import AttributionMetric, Attributions, shares
from polykit_builtins.metrics.in_basis import Coordinates, bases_of, in_directions

__all__ = [
    "IntegratedGradients",
    "attribution_matrix",
    "captum_attribution_matrix",
    "polysemanticity",
]


class IntegratedGradients(AttributionMetric):
    """How many features share a unit, by integrated gradients from the features to the unit.

    M_ij is the integrated gradient of unit i along feature j, baseline 0, input e_j. Only that
    coordinate moves, so it is n_i(e_j) − n_i(0): the default. `steps` gives the right-Riemann sum
    of Plettscher §3.3.2 instead. Every statistic is made from |M|; a unit that no feature moves is
    silent, and 0 everywhere. `basis` takes the directions of a basis, found from the test samples,
    for units. Source: Sundararajan et al. 2017; Plettscher, Def. 14 ff.
    """

    columns: ClassVar[dict[str, Column]] = {
        "ratio": Column("polysemanticity, 0 for silent units", "features per unit", 0),
        "entropy": Column("entropy of a unit's attributions", "nats", 0),
        "entropy_normalised": Column("entropy, min–max over the responding units", "", 0, 1),
        "effective_features": Column("exp(entropy); 0 if silent", "features per unit", 0),
        "count": Column("attributions above the threshold", "features per unit", 0),
        "participation": Column("(sum of attributions)² / sum of squares", "features per unit", 0),
        "silent": Column("units that no feature moves", "share", 0, 1),
        "ratio_responding": Column("polysemanticity of responding units", "features per unit", 1),
    }
    headline: ClassVar[str] = "ratio_responding"

    steps: int | None = Field(
        None, ge=1, description="steps of the Riemann sum; none: exact (with captum: 50)"
    )
    backend: Literal["polykit", "captum"] = Field(
        "polykit", description="who computes; captum is the slow reference, always a Riemann sum"
    )
    threshold: float = Field(
        0.1, ge=0, description="what `count` counts as a feature, as a share of the largest"
    )
    absolute: bool = Field(False, description="take the threshold as it is, not as a share")
    basis: Coordinates = Field(
        "neuron", description="what counts as a unit: neurons, or directions of a basis"
    )

    @model_validator(mode="after")
    def _share(self) -> Self:
        if not self.absolute and self.threshold >= 1:
            raise ValueError("a threshold of 1 or more counts nothing; set absolute or lower it")
        if self.basis != "neuron" and self.reduce == "max":
            raise ValueError("directions add units up, which maxima of maps do not; reduce=mean")
        return self

    def measure(self, subject: Subject) -> Measurement:
        """Attribute every unit of `subject.layers` to every feature of the feature space.

        Raises DataError where the data offers no features, ModelError for a NaN attribution.
        """
        found = self.attributions(subject)
        units = polysemanticity(found.M, threshold=self.threshold, absolute=self.absolute)
        ratios, silent = units["ratio"].to_numpy(), units["silent"].to_numpy()
        ends = np.cumsum(found.counts)[:-1]
        parts = zip(found.layers, np.split(ratios, ends), np.split(silent, ends), strict=True)
        layers = {layer: _responding(*values) for layer, *values in parts}
        everywhere = _responding(ratios, silent)
        return Measurement(found.table(units), layers, everywhere, {"attributions": found.M})

    def attributions(self, subject: Subject) -> Attributions:
        """Attribute the units of `subject.layers` to the features, by the backend."""
        matrix = attribution_matrix if self.backend == "polykit" else captum_attribution_matrix
        found = self.look(matrix, subject, steps=self.steps, at=self.at)
        if self.basis == "neuron":
            return found
        return in_directions(found, bases_of(subject, self.basis, self.at))


def polysemanticity(M: Tensor, *, threshold: float = 0.1, absolute: bool = False) -> pd.DataFrame:
    """Return the statistics of each unit (row of the attribution matrix M `[p, q]`, finite).

    With A = |M|: `ratio` ΣA / max A (Plettscher, Def. 14), in {0} ∪ [1, q]; `entropy` of A / ΣA
    in nats, [0, ln q]; `entropy_normalised`, min–max over the responding units; its exponential
    `effective_features`; `count` of entries above `threshold` times the largest (or above
    `threshold` itself, if `absolute`); `participation` (ΣA)² / ΣA²; `silent`, 1 where A is 0
    everywhere, and then all others are 0. Computed in float64.

    >>> polysemanticity(torch.tensor([[2.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))[["ratio", "silent"]]
       ratio  silent
    0    2.0     0.0
    1    0.0     1.0
    """
    A = M.detach().cpu().double().abs()
    S, parts, silent = shares(A)
    logarithms = parts.clamp_min(torch.finfo(parts.dtype).tiny).log()  # special.entr is far slower
    ratio, entropy = S.sum(dim=1), -(parts * logarithms).sum(dim=1).clamp_max(0)
    columns = {
        "ratio": ratio,
        "entropy": entropy,
        "entropy_normalised": _min_max(entropy, ~silent),
        "effective_features": entropy.exp().masked_fill(silent, 0),
        "count": ((A if absolute else S) > threshold).sum(dim=1).double(),
        "participation": ratio.square() / S.square().sum(dim=1).masked_fill(silent, 1),
        "silent": silent.double(),
    }
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _min_max(values: Tensor, where: Tensor) -> Tensor:
    if not bool(where.any()):
        return torch.zeros_like(values)
    low, high = values[where].min(), values[where].max()
    spread = (high - low).item() or 1.0
    return ((values - low) / spread).masked_fill(~where, 0)


def _responding(ratios: NDArray[Any], silent: NDArray[Any]) -> dict[str, float]:
    """The mean ratio over units that respond; nothing where none does."""
    responding = ratios[silent == 0]
    return {"ratio_responding": float(responding.mean())} if len(responding) else {}
