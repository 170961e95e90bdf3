"""What a pruner must preserve, as one number per sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from polykit.errors import UsageError
from polykit.runtime.passes.capture import capture, unit_values
from polykit.types import Objective, Site, Trace, UnitRef

Position = Literal["mean", "max", "center"] | tuple[int, ...]
"""Where on its map a unit's value is read."""


def task_loss(
    outputs: Tensor, targets: Tensor, task: str, reduction: Literal["none", "mean"] = "none"
) -> Tensor:
    """Return each sample's loss `[n]`, or their mean: cross-entropy, or squared error over outputs.

    >>> from torch import tensor
    >>> task_loss(tensor([[1.0, 3.0]]), tensor([[1.0, 1.0]]), "regression")
    tensor([2.])
    """
    if task == "classification":
        return F.cross_entropy(outputs, targets, reduction=reduction)
    squared = (outputs - targets.reshape(outputs.shape)).square()
    return squared.mean() if reduction == "mean" else squared.reshape(len(squared), -1).mean(1)


@dataclass(frozen=True)
class TaskLoss:
    """The loss of each sample: cross-entropy for classes, squared error for numbers."""

    is_loss: ClassVar[bool] = True

    task: Literal["classification", "regression"] = "classification"
    target: None = None

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the loss of each sample `[n]`."""
        outputs = functional_call(model, dict(params), (x,)) if params else model(x)
        return task_loss(outputs, y, self.task)


@dataclass(frozen=True)
class UnitActivation:
    """A unit's value on each sample, before its nonlinearity; the pass stops at its layer.

    `position`: the mean or maximum over its map, the centre, or one fixed position.
    """

    is_loss: ClassVar[bool] = False

    target: UnitRef
    trace: Trace
    position: Position = "mean"

    def values(
        self, model: nn.Module, x: Tensor, y: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the unit's value on each sample `[n]`; `y` is not looked at."""
        site = Site(self.target.layer)
        maps = capture(model, x, [site], self.trace, params=params).values[site]
        unit = maps[:, self.target.index : self.target.index + 1]
        if isinstance(self.position, tuple):
            for index in self.position:
                unit = unit.select(2, index)
            return unit[:, 0]
        return unit_values(unit, self.position)[:, 0]


def parse_objective(text: str, task: str, trace: Trace) -> Objective:
    """Read `task`, `LAYER:INDEX`, or `LAYER:INDEX@mean|max|center|ROW,COLUMN`.

    Raises UsageError for a unit or position the network does not have.
    """
    if text == "task":
        return TaskLoss("classification" if task == "classification" else "regression")
    address, _, place = text.partition("@")
    unit = UnitRef.parse(address)
    if unit.layer not in trace.layers:
        known = ", ".join(trace.layers)
        raise UsageError(
            f"objective {text!r}: no conv or linear layer {unit.layer!r}. The layers: {known}"
        )
    call = trace.of(unit.layer)[0]
    if unit.index >= call.units:
        raise UsageError(f"objective {text!r}: layer {unit.layer!r} has {call.units} units")
    if place in ("", "mean", "max", "center"):
        return UnitActivation(unit, trace, place or "mean")  # type: ignore[arg-type]
    if not re.fullmatch(r"\d+(,\d+)*", place):
        raise UsageError(f"objective {text!r}: read at mean, max, center or ROW,COLUMN")
    position = tuple(int(part) for part in place.split(","))
    size = tuple(s for axis, s in enumerate(call.shape) if axis != call.unit_axis - 1)
    if len(position) != len(size) or any(p >= s for p, s in zip(position, size, strict=False)):
        shape = "×".join(map(str, size)) or "a single value"
        raise UsageError(f"objective {text!r}: the unit's map is {shape}")
    return UnitActivation(unit, trace, position)
