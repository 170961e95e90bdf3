"""What a metric is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from polykit.types.data import Data, FeatureSpace
from polykit.types.masks import Mask
from polykit.types.structure import Smaller
from polykit.types.units import Trace

T = TypeVar("T")

ALL_LAYERS = "all"
"""The layer name of a statistic over the whole network."""


@dataclass(frozen=True)
class Column:
    """One statistic: what it is, its unit of measure, and the range it can take.

    >>> Column("share of units", "share", 0, 1).range
    '[0, 1]'
    """

    summary: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def range(self) -> str:
        """The range in interval notation."""
        left = "(-∞" if math.isinf(self.low) else f"[{self.low:g}"
        right = "∞)" if math.isinf(self.high) else f"{self.high:g}]"
        return f"{left}, {right}"


@dataclass(frozen=True)
class Subject:
    """A network under the microscope, and all a metric may ask about it.

    `model` is in evaluation mode with `mask` already applied, or is the network of `cut`, which
    structural pruning left. `layers` are the layers to measure. `spaces` builds feature spaces.
    It stands for one state of the network: `dataclasses.replace(subject)` begins another.
    """

    model: nn.Module
    trace: Trace
    layers: tuple[str, ...]
    data: Data
    device: torch.device
    batch_size: int
    spaces: Callable[[str, Subject], FeatureSpace]
    mask: Mask | None = None
    cut: Smaller | None = None
    _shared: dict[Hashable, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def share(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gives, computed once for all metrics that ask for it by this key."""
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def feature_space(self, name: str) -> FeatureSpace:
        """Build a feature space for this network by its plugin name.

        `auto` is the ground truth if the data has one, else the class prototypes.
        """
        return self.spaces(name, self)


@dataclass(frozen=True)
class Measurement:
    """A metric's result.

    `units`: one row per unit with columns `layer`, `unit` and one column per statistic; means over
    units are taken of float columns only, since the mean of a code means nothing.
    `layers`: layer → statistic → value, for statistics that belong to a layer as a whole.
    `summary`: statistic → value for the network. `arrays`: tensors worth saving.

    >>> units = pd.DataFrame({"layer": ["0", "0"], "unit": [0, 1], "ratio": [1.0, 3.0]})
    >>> list(Measurement(units=units).rows())
    [('all', 'ratio', 2.0), ('0', 'ratio', 2.0)]
    """

    units: pd.DataFrame | None = None
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    summary: Mapping[str, float] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, only: str | None = None) -> Iterator[tuple[str, str, float]]:
        """Yield `(layer, statistic, value)`: means over units first, then what the metric adds.

        A statistic of the metric's own replaces the mean of the unit column of the same name.
        `only` names the one statistic that is wanted.
        """
        table: dict[tuple[str, str], float] = {}
        if self.units is not None and len(self.units):
            table |= _means(self.units, only)
        for statistic, value in self.summary.items():
            table[ALL_LAYERS, statistic] = float(value)
        for layer_name, values in self.layers.items():
            for statistic, value in values.items():
                table[layer_name, statistic] = float(value)
        for (layer, statistic), value in table.items():
            if only in (None, statistic):
                yield str(layer), statistic, value


def _means(units: pd.DataFrame, only: str | None) -> dict[tuple[str, str], float]:
    """Means of the float columns over all units and over each layer's; NaN is left out of them.

    In NumPy, since a run asks for them after every epoch: pandas takes ten times as long.
    """
    names = [str(name) for name in units.columns if name not in ("layer", "unit")]
    names = names if only is None else [name for name in names if name == only]
    statistics = [name for name in names if pd.api.types.is_float_dtype(units[name])]
    if not statistics:
        return {}
    values = units[statistics].to_numpy(dtype=float)
    known = ~np.isnan(values)
    codes, layers = pd.factorize(units["layer"])
    table = {}
    for layer, rows in [
        (ALL_LAYERS, slice(None)),
        *((la, codes == c) for c, la in enumerate(layers)),
    ]:
        counts = known[rows].sum(axis=0)
        sums = np.where(known[rows], values[rows], 0.0).sum(axis=0)
        for statistic, total, count in zip(statistics, sums, counts, strict=True):
            table[str(layer), statistic] = float(total / count) if count else math.nan
    return table
