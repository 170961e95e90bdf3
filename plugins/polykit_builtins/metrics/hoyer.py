"""Hoyer sparsity of activations, over the units of a layer and over the samples of a unit."""

from __future__ import annotations

from operator import add
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from polykit.api import Field, StreamingMetric
from polykit.runtime.degeneracy.bases import Basis
from polykit.runtime.passes.capture import Reduce, unit_values
from polykit.types import At, Batch, Column, Measurement, Subject
from polykit_builtins.metrics.in_basis import Coordinates, bases_of


class Sums(NamedTuple):
    """What one layer has added up: plain sums, so chunks of any size give the same."""

    samples: int
    absolute: Tensor  # [units] Σ over samples of |v|, float64
    squares: Tensor  # [units] Σ v²
    population: float  # Σ over samples of the sparsity of the sample's vector
    silent: int  # samples whose vector is zero


class State(NamedTuple):
    """The bases to project into, none for neurons, and each layer's sums."""

    bases: dict[str, Basis]
    sums: dict[str, Sums]


class Hoyer(StreamingMetric):
    """Hoyer sparsity (√n − ‖v‖₁ / ‖v‖₂) / (√n − 1): 0 where all entries are equal, 1 for one-hot.

    `population`: v is a sample's vector over the units of a layer; the mean over samples, then
    over layers. `lifetime`: v is a unit's vector over the samples. A zero vector has no sparsity:
    it is counted as silent, its lifetime given as 0, and it stays out of the other means. `basis`
    takes the directions of a basis, found from the test samples, for units. Source:
    Hoyer 2004, J. Mach. Learn. Res. 5; Schoots et al., Propensity for Density.
    """

    columns: ClassVar[dict[str, Column]] = {
        "lifetime": Column("sparsity of a unit over the samples; 0 if silent", "", 0, 1),
        "silent": Column("units that are zero on every sample", "share", 0, 1),
        "lifetime_responding": Column("mean lifetime of the units that respond", "", 0, 1),
        "population": Column("sparsity of a sample over a layer's units, mean", "", 0, 1),
        "silent_samples": Column("samples for which a whole layer is zero", "share", 0, 1),
    }
    headline: ClassVar[str] = "population"

    at: Literal["pre", "post"] = Field("post", description="before or after the nonlinearity")
    reduce: Reduce = Field("mean", description="how a unit's map becomes one value")
    basis: Coordinates = Field(
        "neuron", description="what counts as a unit: neurons, or directions of a basis"
    )

    @property
    def reads(self) -> tuple[At, ...]:
        """The place that `at` chose."""
        return (self.at,)

    def update(self, subject: Subject, state: State | None, batch: Batch) -> State:
        """Add the chunk to each layer's sums; with a basis, find it first in a pass of its own."""
        bases, sums = state or State(bases_of(subject, self.basis, self.at), {})
        found = batch.activations[self.at]
        if bases:
            found = {layer: basis.project(found[layer]) for layer, basis in bases.items()}
        reduced = {layer: unit_values(values, self.reduce) for layer, values in found.items()}
        return State(
            bases, {la: _add(sums.get(la), values.cpu().double()) for la, values in reduced.items()}
        )

    def finish(self, subject: Subject, state: State) -> Measurement:
        """Turn the sums into sparsities."""
        tables, layers = [], {}
        for layer, sums in state.sums.items():
            lifetime, silent = hoyer(sums.absolute, sums.squares, sums.samples)
            columns = {"lifetime": lifetime.numpy(), "silent": silent.double().numpy()}
            units = pd.DataFrame({"layer": layer, "unit": np.arange(len(lifetime)), **columns})
            layers[layer] = {"silent_samples": sums.silent / sums.samples, **_responding(units)}
            if sums.silent < sums.samples:
                layers[layer]["population"] = sums.population / (sums.samples - sums.silent)
            tables.append(units)
        units = pd.concat(tables, ignore_index=True)
        summary = _responding(units)
        for name in ("population", "silent_samples"):
            if found := [values[name] for values in layers.values() if name in values]:
                summary[name] = float(np.mean(found))
        return Measurement(units, layers, summary)


def hoyer(absolute: Tensor, squares: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the sparsity of vectors of `n` entries, in [0, 1], and which of them are zero.

    `absolute` are the sums of |v|, `squares` those of v². Zero vectors, and vectors of a single
    entry, for which even and one-hot are the same, get 0.

    >>> sparsity, silent = hoyer(torch.tensor([4.0, 2.0, 0.0]), torch.tensor([4.0, 4.0, 0.0]), n=4)
    >>> sparsity, silent
    (tensor([0., 1., 0.]), tensor([False, False,  True]))
    """
    silent = squares == 0
    if n == 1:
        return torch.zeros_like(absolute), silent
    spread = absolute / squares.masked_fill(silent, 1).sqrt()
    sparsity = (n**0.5 - spread) / (n**0.5 - 1)
    return sparsity.clamp(0, 1).masked_fill(silent, 0), silent


def _add(sums: Sums | None, values: Tensor) -> Sums:
    """Add unit values `[n, units]` in float64 to a layer's sums."""
    absolute, squares = values.abs(), values.square()
    sparsity, silent = hoyer(absolute.sum(dim=1), squares.sum(dim=1), values.shape[1])
    chunk = Sums(
        len(values),
        absolute.sum(dim=0),
        squares.sum(dim=0),
        float(sparsity.sum()),
        int(silent.sum()),
    )
    return chunk if sums is None else Sums(*map(add, sums, chunk))


def _responding(units: pd.DataFrame) -> dict[str, float]:
    """The mean lifetime over units that respond; nothing where none does."""
    lifetimes = units.loc[units["silent"] == 0, "lifetime"]
    return {"lifetime_responding": float(lifetimes.mean())} if len(lifetimes) else {}
