"""Feature dimensionality: how many of the features the units have room for."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from polykit.types import Column, Measurement, Subject
from polykit_builtins.metrics.feature_metric import AttributionMetric, shares


class FeatureDimensionality(AttributionMetric):
    """How many of the features are represented, where each unit has one dimension to share out.

    Unit i gives feature j the dimension D_ij = |M_ij| / Σ_j |M_ij|, a unit that no feature moves
    gives none. A feature has D_j = min(Σ_i D_ij, 1): arrays `network` `[features]`, and `layers`
    `[layers, features]` by the units of one layer alone. Their mean is the total. Source:
    Plettscher's thesis, after Elhage et al. 2022.
    """

    columns: ClassVar[dict[str, Column]] = {
        "total_feature_dimensionality": Column(
            "share of the features that the units represent", "share", 0, 1
        )
    }
    headline: ClassVar[str] = "total_feature_dimensionality"

    def measure(self, subject: Subject) -> Measurement:
        """Share out every unit's dimension.

        Raises DataError where the data offers no features, ModelError for a NaN attribution.
        """
        found = self.attributions(subject)
        D = dimensions(found.M)
        parts = zip(found.layers, D.split(found.counts), strict=True)
        layers = {layer: _filled(part) for layer, part in parts}
        network = _filled(D)
        total = "total_feature_dimensionality"
        return Measurement(
            layers={layer: {total: float(each.mean())} for layer, each in layers.items()},
            summary={total: float(network.mean())},
            arrays={"network": network, "layers": torch.stack(list(layers.values()))},
        )


def feature_dimensionality(M: Tensor) -> Tensor:
    """Return each feature's dimensionality `[q]`, min(Σ_i D_ij, 1) of M `[p, q]`; in [0, 1].

    D_ij = |M_ij| / Σ_j |M_ij|, and 0 for a silent unit.

    >>> feature_dimensionality(torch.tensor([[1.0, 0.0, 0.0], [0.0, -3.0, 3.0], [0.0, 0.0, 0.0]]))
    tensor([1.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    return _filled(dimensions(M))


def dimensions(M: Tensor) -> Tensor:
    """Return what each unit gives to each feature, D `[p, q]`; every row sums to 1, or to 0.

    >>> dimensions(torch.tensor([[0.0, -3.0, 1.0], [0.0, 0.0, 0.0]])).tolist()
    [[0.0, 0.75, 0.25], [0.0, 0.0, 0.0]]
    """
    return shares(M.detach().cpu().double().abs())[1]


def _filled(D: Tensor) -> Tensor:
    """What units give to each feature together, of which more than 1 is of no use."""
    return D.sum(dim=0).clamp(max=1)


def total_feature_dimensionality(M: Tensor) -> float:
    """Return the mean over features of `feature_dimensionality`; in [0, 1].

    >>> total_feature_dimensionality(torch.tensor([[1.0, 0.0, 0.0], [0.0, -3.0, 3.0]]))
    0.6666666666666666
    """
    return float(feature_dimensionality(M).mean())
