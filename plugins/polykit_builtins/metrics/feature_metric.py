"""What all metrics share that ask how the features of a feature space act on units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from polykit.api import Field, Metric
from polykit.errors import DataError
from polykit.runtime.passes.capture import Reduce
from polykit.types import FeatureSpace, Subject
from polykit_builtins.metrics.attribution import attributed, attribution_matrix


@dataclass(frozen=True)
class Attributions:
    """What features do to units: `M [p, q]`, whose rows are the units of `layers`, in order."""

    M: Tensor
    layers: tuple[str, ...]
    counts: tuple[int, ...]

    def by_layer(self) -> dict[str, Tensor]:
        """Return each layer's rows."""
        return dict(zip(self.layers, self.M.split(self.counts), strict=True))

    def table(self, statistics: pd.DataFrame) -> pd.DataFrame:
        """Put layer and unit in front of statistics of one row per unit."""
        place = {
            "layer": np.repeat(self.layers, self.counts),
            "unit": np.concatenate([np.arange(count) for count in self.counts]),
        }
        return pd.concat([pd.DataFrame(place), statistics], axis=1)


class FeatureMetric(Metric):
    """A metric of what the features of a feature space do to units."""

    features: str = Field(
        "auto", description="feature space: auto (the truth if known, else classes) or a name"
    )
    reduce: Reduce = Field("mean", description="how a unit's map becomes one value")
    chunk_size: int | None = Field(
        None, ge=1, description="feature vectors in one forward pass; none: what memory allows"
    )

    def check(self, subject: Subject) -> None:
        """Raise DataError where the data has neither known features nor classes, but needs one."""
        data = subject.data
        if self.features == "auto" and data.features is None and data.task == "regression":
            raise DataError(
                f"{data.name} has no known features (feature space 'truth') and no classes "
                f"('classes') to measure by; use data that has, such as the dataset 'toy', or "
                f"learn features from activations with features=dictionary"
            )

    def space(self, subject: Subject) -> FeatureSpace:
        """Build the feature space; raise DataError where the data offers no features."""
        self.check(subject)
        return subject.feature_space(self.features)

    def look(
        self, matrix: Callable[..., Tensor], subject: Subject, **options: object
    ) -> Attributions:
        """Let `matrix`, such as `attribution_matrix`, look at the units that the features reach.

        Where features enter behind a layer, the input is zero: only paths around that layer, such
        as skip connections, would show another one. Metrics that ask the same share the answer.
        Raises UsageError where the features enter behind all of `subject.layers`.
        """
        key = (matrix, self.features, self.chunk_size, self.reduce, *sorted(options.items()))
        return subject.share(key, lambda: self._look(matrix, subject, options))

    def _look(
        self, matrix: Callable[..., Tensor], subject: Subject, options: Mapping[str, object]
    ) -> Attributions:
        space, model, passed = self.space(subject), subject.model, subject.trace
        inputs = _blank(model, subject.data.input_shape, subject.device)
        layers = attributed(model, inputs, passed, subject.layers, space.layer, space.name)
        M = matrix(
            model,
            space.encode,
            space.n_features,
            layers=layers,
            layer=space.layer,
            inputs=inputs,
            chunk_size=self.chunk_size,
            reduce=self.reduce,
            passed=passed,
            **options,
        )
        return Attributions(M.cpu(), layers, tuple(passed.of(layer)[0].units for layer in layers))


class AttributionMetric(FeatureMetric):
    """A metric that is made from the attribution matrix."""

    steps: int | None = Field(None, ge=1, description="steps of the Riemann sum; none: exact")
    at: Literal["pre", "post"] = Field("pre", description="before or after the nonlinearity")

    def attributions(self, subject: Subject) -> Attributions:
        """Attribute the units of `subject.layers` to the features; see `look`."""
        return self.look(attribution_matrix, subject, steps=self.steps, at=self.at)


def shares(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of A ≥ 0 relative to their largest entry, and to their sum; and which are 0.

    The first keeps squares and sums of very small numbers from underflowing.

    >>> _, parts, silent = shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    >>> parts.tolist(), silent.tolist()
    ([[0.25, 0.75], [0.0, 0.0]], [False, True])
    """
    peak = A.amax(dim=1, keepdim=True)
    S = A / peak.masked_fill(peak == 0, 1)
    return S, S / S.sum(dim=1, keepdim=True).clamp_min(1), peak.squeeze(1) == 0


def _blank(model: nn.Module, shape: Sequence[int], device: torch.device) -> Tensor:
    """The zero input `[1, *shape]`, in the model's float type."""
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return torch.zeros(1, *shape, dtype=next(kinds, torch.get_default_dtype()), device=device)
