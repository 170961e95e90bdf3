"""Addresses inside a network: layers, units, and the places where a unit's value is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polykit.errors import UsageError

At = Literal["pre", "post", "input"]
"""Where a layer is read: its output before the nonlinearity, after it, or what flows into it."""


@dataclass(frozen=True, order=True)
class UnitRef:
    """One unit: a neuron of a linear layer or a channel of a conv layer.

    >>> UnitRef.parse("features.10:15")
    UnitRef(layer='features.10', index=15)
    >>> str(UnitRef("0", 3))
    '0:3'
    """

    layer: str
    index: int

    @classmethod
    def parse(cls, text: str) -> UnitRef:
        """Read `layer:index`; raise UsageError for anything else."""
        layer, separator, index = text.rpartition(":")
        if not (separator and layer and index.isdigit()):
            raise UsageError(f"{text!r} is no unit; write layer:index, e.g. features.10:15")
        return cls(layer, int(index))

    def __str__(self) -> str:
        return f"{self.layer}:{self.index}"


@dataclass(frozen=True, order=True)
class Site:
    """A place to read activations: a layer, before or after its nonlinearity, at one of its calls.

    A module that is called twice in one forward pass has two sites; `call` counts from 0.

    >>> str(Site("encoder", "pre", call=1))
    'encoder@1'
    """

    layer: str
    at: At = "pre"
    call: int = 0

    def __str__(self) -> str:
        return self.layer if self.call == 0 else f"{self.layer}@{self.call}"


@dataclass(frozen=True)
class LayerCall:
    """One call of a module in a forward pass, as seen with a single sample.

    `shape` is the output's without the batch axis; `unit_axis` counts in the batched tensor.
    `activated` says that a nonlinearity follows, directly or behind a normalisation. `overwritten`
    names the readings that the pass changed in place later (an in-place ReLU does it to `pre`).
    `fan_in` counts the multiply-adds behind one output value of a conv or linear layer.
    """

    layer: str
    call: int
    kind: Literal["linear", "conv", "other"]
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]
    unit_axis: int
    activated: bool
    overwritten: frozenset[At]
    fan_in: int = 0

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return self.shape[self.unit_axis - 1]

    @property
    def positions(self) -> int:
        """How many places each unit is evaluated at: pixels of a map, tokens, or 1."""
        count = 1
        for size in self.shape:
            count *= size
        return count // self.units


@dataclass(frozen=True)
class Trace:
    """What happened in one forward pass: module calls in order of completion.

    `input_shape` is the shape of the sample that was passed through, without the batch axis.
    """

    calls: tuple[LayerCall, ...]
    input_shape: tuple[int, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the conv and linear layers, in order of their first call."""
        names = (call.layer for call in self.calls if call.kind != "other")
        return tuple(dict.fromkeys(names))

    @property
    def output_layer(self) -> str:
        """The last conv or linear layer of the pass; empty if there is none."""
        return self.layers[-1] if self.layers else ""

    @property
    def flops(self) -> int:
        """FLOPs of the conv and linear layers for one sample, multiply-adds counted twice."""
        return sum(2 * call.fan_in * call.units * call.positions for call in self.calls)

    def of(self, layer: str) -> tuple[LayerCall, ...]:
        """All calls of one module, in order; empty if the pass never reached it."""
        return tuple(call for call in self.calls if call.layer == layer)
