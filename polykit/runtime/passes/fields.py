"""Receptive fields: which pixels of the input reach one position of a layer. Exact for chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from polykit.errors import UsageError
from polykit.runtime.passes.chains import Sizes, Step, Window, chain, first_call
from polykit.types import At, LayerCall, Trace


@dataclass(frozen=True)
class Field:
    """A box of input pixels, `start` included and `stop` not, one number per axis.

    It may leave the picture where layers on the way pad their inputs; what they put there is not
    in the box, be it zeros or pixels from elsewhere.

    >>> import torch
    >>> field = Field((-1, 2), (4, 7))
    >>> field.size, field.inside((8, 8)), field.inside((3, 8))
    ((5, 5), False, False)
    >>> field.crop(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3, 4, 5])
    """

    start: Sizes
    stop: Sizes

    @property
    def size(self) -> Sizes:
        """How many pixels the box has along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def inside(self, shape: Sequence[int]) -> bool:
        """Whether the box lies within a picture of this height and width."""
        ends = zip(self.start, self.stop, shape, strict=True)
        return all(a >= 0 and b <= size for a, b, size in ends)

    def crop(self, pictures: Tensor) -> Tensor:
        """Return the part of pictures `[..., height, width]` that lies in the box, as a view."""
        for axis, (a, b) in enumerate(zip(self.start, self.stop, strict=True), -len(self.start)):
            size = pictures.shape[axis]
            first = min(max(a, 0), size)
            pictures = pictures.narrow(axis, first, max(min(b, size) - first, 0))
        return pictures


def receptive_field(
    model: nn.Module, trace: Trace, layer: str, position: Sequence[int], *, at: At = "pre"
) -> Field:
    """Return the pixels that reach one position of a layer's map, one index per axis.

    Exact for a chain: the gradient of the layer there is zero outside the box and not in general
    zero at its corners; for windows with gaps (dilation, or a stride above the window's size) the
    box is the smallest around the pixels. Raises as `chain` does, and UsageError for a position
    the map does not have.

    >>> import torch
    >>> from polykit.runtime.passes.trace import trace
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Conv2d(2, 4, 3, padding=1))
    >>> receptive_field(model, trace(model, torch.zeros(1, 1, 9, 9)), "1", (1, 2))
    Field(start=(0, 2), stop=(7, 9))
    """
    steps = chain(model, trace, layer, at=at)
    check_position(first_call(trace, layer), position)
    return reach(steps, position)


def reach(steps: Sequence[Step], position: Sequence[int]) -> Field:
    """Return the pixels behind one position of the last step's output, one index per axis."""
    field = Field(tuple(position), tuple(p + 1 for p in position))
    for step in reversed(steps):
        if step.window is not None:
            field = _seen(step.window, field)
    return field


def _seen(window: Window, field: Field) -> Field:
    """Return the box of input positions behind a box of output positions."""
    start, stop = [], []
    axes = zip(window.size, window.stride, window.dilation, window.padding, strict=True)
    for a, b, (k, s, d, p) in zip(field.start, field.stop, axes, strict=True):
        start.append(a * s - p)
        stop.append((b - 1) * s - p + d * (k - 1) + 1)
    return Field(tuple(start), tuple(stop))


def map_sizes(call: LayerCall) -> Sizes:
    """Return the size of a layer's map along each axis, units aside; () if it has none.

    >>> import torch
    >>> from polykit.runtime.passes.trace import trace
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4))
    >>> [map_sizes(call) for call in trace(model, torch.zeros(1, 1, 5, 5)).calls]
    [(3, 3), (), ()]
    """
    return tuple(size for axis, size in enumerate(call.shape, 1) if axis != call.unit_axis)


def check_position(call: LayerCall, position: Sequence[int]) -> None:
    """Raise UsageError for a position, one index per axis, that a layer's map does not have."""
    sizes = map_sizes(call)
    fits = len(position) == len(sizes)
    if not fits or any(not 0 <= p < size for p, size in zip(position, sizes, strict=True)):
        raise UsageError(
            f"the map of {call.layer} is {'×'.join(map(str, sizes)) or 'a single value'}; it has "
            f"no position {','.join(map(str, position))}"
        )
