"""Monosemanticity: whether a unit fires for one feature only."""

from __future__ import annotations

from typing import ClassVar

import pandas as pd
from torch import Tensor

from polykit.api import Field
from polykit.types import Column, Measurement, Subject
from polykit_builtins.metrics.attribution import response_matrix
from polykit_builtins.metrics.feature_metric import FeatureMetric

EPSILON = 1e-10
"""What the paper adds to the denominator."""


class Monosemanticity(FeatureMetric):
    """How much of a unit's firing goes to one feature: 1 if it fires for that one only.

    r_i = max_j h_i(e_j) / (1e-10 + Σ_j max(0, h_i(e_j))), with h_i the unit's value behind the
    nonlinearity for one feature at a time, at strength 1. A unit that fires for no feature is
    silent: it is reported apart, as 0, and is no monosemantic unit. Source: Jermyn et al. 2022,
    Engineering monosemanticity in toy models.
    """

    columns: ClassVar[dict[str, Column]] = {
        "monosemanticity": Column("largest share of one feature; 0 if silent", "share", 0, 1),
        "silent": Column("units that fire for no feature", "share", 0, 1),
        "monosemanticity_responding": Column("mean over the units that fire", "share", 0, 1),
        "monosemantic_share": Column("firing units with one feature only", "share", 0, 1),
        "monosemantic_per_feature": Column(
            "units with one feature only / features", "units per feature", 0
        ),
    }
    headline: ClassVar[str] = "monosemanticity_responding"

    threshold: float = Field(
        0.999, ge=0, lt=1, description="share above which a unit has one feature only"
    )

    def measure(self, subject: Subject) -> Measurement:
        """Show the network one feature after the other.

        Raises DataError where the data offers no features, ModelError for a NaN value.
        """
        found = self.look(response_matrix, subject)
        units = found.table(monosemanticity(found.M))
        layers = {
            layer: self._shares(units[units["layer"] == layer], found.M) for layer in found.layers
        }
        return Measurement(units, layers, self._shares(units, found.M), {"responses": found.M})

    def _shares(self, units: pd.DataFrame, M: Tensor) -> dict[str, float]:
        """Statistics of a set of units; without those over no units at all."""
        alone = units["monosemanticity"] > self.threshold
        firing = units["silent"] == 0
        counted = {"monosemantic_per_feature": float(alone.sum()) / M.shape[1]}
        if not firing.any():
            return counted
        return counted | {
            "monosemanticity_responding": float(units.loc[firing, "monosemanticity"].mean()),
            "monosemantic_share": float(alone[firing].mean()),
        }


def monosemanticity(H: Tensor) -> pd.DataFrame:
    """Return r and silence of each unit, from its values `H [p, q]` for each feature alone.

    `monosemanticity` max_j H_ij / (1e-10 + Σ_j max(0, H_ij)), in [0, 1], 0 where no H_ij is above
    0; `silent` is 1 there. Computed in float64.

    >>> import torch
    >>> monosemanticity(torch.tensor([[3.0, 1.0, -4.0], [0.0, -1.0, 0.0]])).round(6)
       monosemanticity  silent
    0             0.75     0.0
    1             0.00     1.0
    """
    fired = H.detach().cpu().double().clamp(min=0)
    r = fired.amax(dim=1) / (EPSILON + fired.sum(dim=1))
    silent = (fired == 0).all(dim=1).double()
    return pd.DataFrame({"monosemanticity": r.numpy(), "silent": silent.numpy()})
