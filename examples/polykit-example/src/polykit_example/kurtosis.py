"""Excess kurtosis of activations: how much of a unit's variance comes from rare, large values."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from polykit.api import Field, StreamingMetric
from polykit.runtime.passes.capture import unit_values
from polykit.types import At, Batch, Column, Measurement, Subject


class Kurtosis(StreamingMetric):
    """Excess kurtosis m₄ / m₂² − 3 of each unit over the samples; 0 for a normal distribution.

    A unit's map counts as its mean. Moments are central and of the population, as in
    `scipy.stats.kurtosis`. A unit whose value never changes has no kurtosis: it is counted in
    `constant` and its kurtosis is given as 0.
    """

    columns: ClassVar[dict[str, Column]] = {
        "kurtosis": Column("excess kurtosis over the samples; 0 for a normal", low=-2),
        "kurtosis_varying": Column("mean kurtosis of the units that vary; 0 if none", low=-2),
        "constant": Column("units whose value never changes", "share", 0, 1),
    }
    headline: ClassVar[str] = "kurtosis_varying"

    at: Literal["pre", "post"] = Field("post", description="before or after the nonlinearity")

    @property
    def reads(self) -> tuple[At, ...]:
        """The place that `at` chose."""
        return (self.at,)

    def update(self, subject: Subject, state: Any, batch: Batch) -> Any:
        """Add to each layer's sums of powers 0 to 4, `[5, units]`, about the first sample's value.

        A shift near the data keeps the powers small, float64 keeps their differences exact.
        """
        state = state or {}
        for layer, values in batch.activations[self.at].items():
            x = unit_values(values).double().cpu()
            shift, sums = state.get(layer, (x[0], 0))
            powers = torch.stack([(x - shift).pow(power).sum(dim=0) for power in range(5)])
            state[layer] = (shift, sums + powers)
        return state

    def finish(self, subject: Subject, state: Any) -> Measurement:
        """Turn sums of powers into central moments."""
        tables = []
        for layer, (shift, sums) in state.items():
            value, constant = excess_kurtosis(sums, shift)
            columns = {"kurtosis": value.numpy(), "constant": constant.double().numpy()}
            tables.append(pd.DataFrame({"layer": layer, "unit": range(len(value)), **columns}))
        units = pd.concat(tables, ignore_index=True)
        return Measurement(
            units=units,
            summary={"kurtosis_varying": _mean_varying(units)},
            layers={t["layer"].iloc[0]: {"kurtosis_varying": _mean_varying(t)} for t in tables},
        )


def excess_kurtosis(sums: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return (excess kurtosis `[units]`, constant `[units]` bool).

    `sums` `[5, units]` are the sums of powers 0 to 4 of the values about `shift` `[units]`. A unit
    is constant if it spreads by less than float32 resolves at its value.

    >>> x = torch.tensor([[0.0, 7.0], [0.0, 7.0], [1.0, 7.0], [1.0, 7.0]]).double()
    >>> sums = torch.stack([(x - x[0]).pow(power).sum(dim=0) for power in range(5)])
    >>> [values.tolist() for values in excess_kurtosis(sums, x[0])]
    [[-2.0, 0.0], [False, True]]
    """
    mean, second, third, fourth = sums[1:] / sums[0]
    variance = second - mean**2
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    constant = variance <= (1e-6 * shift) ** 2
    value = central / variance.masked_fill(constant, 1) ** 2 - 3
    return value.masked_fill(constant, 0), constant


def _mean_varying(units: pd.DataFrame) -> float:
    varying = units.loc[units["constant"] == 0, "kurtosis"]
    return float(varying.mean()) if len(varying) else 0.0
