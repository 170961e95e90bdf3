"""Capacity: how much of a layer each feature has to itself."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from polykit.types import Column, Measurement, Subject
from polykit_builtins.metrics.feature_metric import AttributionMetric


class Capacity(AttributionMetric):
    """How much of a layer a feature has to itself: 1 if orthogonal to all others, 0 if absent.

    A feature's column of the attribution matrix is its direction in the space of the units. The
    mean over features is given for each layer and for all its units together; the array `layers`
    `[layers, features]` and `network` `[features]` hold each feature's. Source: Scherlis et al.
    2022, eq. 1.
    """

    columns: ClassVar[dict[str, Column]] = {
        "capacity": Column("how much of the units a feature has to itself, mean", "share", 0, 1)
    }
    headline: ClassVar[str] = "capacity"

    def measure(self, subject: Subject) -> Measurement:
        """Compute every feature's capacity in every layer.

        Raises DataError where the data offers no features, ModelError for a NaN attribution.
        """
        found = self.attributions(subject)
        layers = {layer: capacity(rows) for layer, rows in found.by_layer().items()}
        network = capacity(found.M)
        return Measurement(
            layers={layer: {"capacity": float(each.mean())} for layer, each in layers.items()},
            summary={"capacity": float(network.mean())},
            arrays={"network": network, "layers": torch.stack(list(layers.values()))},
        )


def capacity(M: Tensor) -> Tensor:
    """Return each feature's capacity `[q]` in the units of M `[p, q]`, in [0, 1].

    C_j = (c_j·c_j)² / Σ_l (c_j·c_l)², c_j the columns of M; 0 for a zero column (Scherlis et al.
    2022, eq. 1): 1 for a feature orthogonal to all others, 1/2 for each of two that coincide.

    >>> capacity(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    C = M.detach().cpu().double()
    C = C / (C.abs().max() or 1)  # the square of a square underflows soon
    products = (C.T @ C).square()
    return products.diag() / products.sum(dim=1).masked_fill(products.diag() == 0, 1)
