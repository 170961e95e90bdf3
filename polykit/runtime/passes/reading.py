"""One value per unit and picture: the unit at the middle of its map, or its mean or maximum.

The value in the middle needs only the pixels that reach it. Where they all lie in the picture and
the way there is a chain, the crop is passed through the chain without padding: the same numbers
for a fraction of the multiply-adds. That way is called the cone; the other reads the full map.
On AlexNet's five convolutions they agree to the last bit; a single picture, for which PyTorch
convolves small maps in another way, differs by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal

from torch import Tensor, nn
from torch.func import functional_call

from polykit.errors import ModelError, UsageError
from polykit.runtime.objectives import Position
from polykit.runtime.passes.capture import capture, unit_values
from polykit.runtime.passes.chains import Step, chain, first_call
from polykit.runtime.passes.fields import Field, check_position, map_sizes, reach
from polykit.types import At, LayerCall, Site, Trace

Way = Literal["auto", "cone", "full"]
"""How a value is read: through the cone, from the full map, or the first that can be."""


@dataclass(frozen=True)
class Reader:
    """Reads `units` values per picture at one layer: `reader(model, x) -> [n, units]`.

    `field` holds the pixels that reach the position read; None where no single position is read
    or the way to it is no chain. `why` says why the full map is read; empty for the cone. Any
    network with the same layers can be read, such as one with other weights.
    """

    layer: str
    units: int
    position: Position
    at: At
    way: Literal["cone", "full"]
    field: Field | None
    why: str
    trace: Trace
    place: tuple[int, ...] | None
    steps: tuple[Step, ...]

    def __call__(
        self, model: nn.Module, x: Tensor, *, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Read the pictures `x [n, channels, *size]`; the pass stops at the layer.

        `model` is in evaluation mode. `params` stand in for its own parameters of those names.
        Differentiable by both. Raises UsageError for pictures of another size than were traced.
        """
        if self.way == "cone":
            return self._cone(model, x, params)
        site = Site(self.layer, self.at)
        values = capture(model, x, [site], self.trace, params=params).values[site]
        if self.place is None:
            return unit_values(values, self.position)  # type: ignore[arg-type]
        for index in self.place:
            values = values.select(2, index)
        return values

    def _cone(self, model: nn.Module, x: Tensor, params: Mapping[str, Tensor] | None) -> Tensor:
        expected = self.trace.input_shape
        if self.field is None or tuple(x.shape[1:]) != expected:
            raise UsageError(
                f"{self.layer} is read from pictures of shape {'×'.join(map(str, expected))}, "
                f"not {'×'.join(map(str, x.shape[1:]))}; make a reader for those"
            )
        crop = self.field.crop(x).clone()  # keeps the order of channels in memory
        walk = _Walk(model, self.steps)
        if not params:
            return walk(crop)  # type: ignore[no-any-return]
        inside = {f"model.{name}": value for name, value in params.items()}
        return functional_call(walk, inside, (crop,))  # type: ignore[no-any-return]


def make_reader(
    model: nn.Module,
    trace: Trace,
    layer: str,
    *,
    position: Position = "center",
    way: Way = "auto",
    at: At = "pre",
) -> Reader:
    """Return a reader of `layer`, before its nonlinearity or (`at="post"`) behind it.

    `position`: the `center` of the map (`size // 2` along each axis), one fixed position, or the
    `mean` or `max` over the map. A layer without a map has one value per unit, whatever the
    position. In a layer of tokens `[tokens, units]` the centre is the class token, position 0,
    where the other tokens make up a square; where they do not, there is no centre.

    `way="auto"` takes the cone where it gives the same numbers, the full map elsewhere.

    Raises UsageError for a layer or position the network does not have, and for `way="cone"`
    where the cone cannot be taken; the message says why.

    >>> import torch
    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3)), torch.zeros(5, 1, 9, 9)
    >>> reader = make_reader(model, trace(model, x), "1")
    >>> reader.way, reader.field, reader(model, x).shape
    ('cone', Field(start=(2, 2), stop=(7, 7)), torch.Size([5, 4]))
    """
    if at == "input":
        raise UsageError("a reader reads a layer's output: at is pre or post")
    call = first_call(trace, layer)
    place = _place(call, position)
    field: Field | None = None
    steps: tuple[Step, ...] = ()
    why = ""
    if place is None:
        why = f"the {position} looks at the whole map"
    elif not place:
        why = f"{layer} has no map"
    elif call.unit_axis != 1:
        why = f"{layer} has tokens, not a map"
    else:
        try:
            steps = chain(model, trace, layer, at=at)
            field = reach(steps, place)
        except ModelError as error:
            why = str(error)
    if field is not None and not field.inside(trace.input_shape[1:]):
        why = f"the field of {layer} leaves the picture"
    if way == "cone" and why:
        raise UsageError(f"no cone: {why}; read the full map, or let auto choose")
    if way == "full" and not why:
        why = "asked for"
    return Reader(
        layer, call.units, position, at, "full" if why else "cone", field, why, trace, place, steps
    )


def _place(call: LayerCall, position: Position) -> tuple[int, ...] | None:
    """Return the position as indices of a map, units aside; None for its mean or maximum."""
    sizes = map_sizes(call)
    if not sizes:
        return ()
    if isinstance(position, tuple):
        check_position(call, position)
        return position
    if position != "center":
        return None
    if call.unit_axis == 1:
        return tuple(size // 2 for size in sizes)
    if len(sizes) == 1 and isqrt(sizes[0] - 1) ** 2 == sizes[0] - 1:
        return (0,)
    raise UsageError(
        f"{call.layer} has {'×'.join(map(str, sizes))} tokens and no class token among them, so "
        f"it has no centre; read the mean, the max, or one position"
    )


class _Walk(nn.Module):
    """A model's chain without padding, as a module, so that parameters can be put in its place."""

    def __init__(self, model: nn.Module, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.model, self.steps = model, steps

    def forward(self, crop: Tensor) -> Tensor:
        for step in self.steps:
            crop = step.unpadded(self.model.get_submodule(step.name), crop)
        return crop.flatten(1)
