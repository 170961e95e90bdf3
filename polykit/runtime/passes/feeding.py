"""Which layers hear of it when a layer's values are replaced."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import evaluating
from polykit.types import Site, Trace


def downstream(
    model: nn.Module, x: Tensor, layer: str, trace: Trace, layers: Iterable[str]
) -> tuple[str, ...]:
    """Return those of `layers` that depend on the values of `layer` behind its nonlinearity.

    Both are taken at their first call. `x [1, *shape]` is any input. What counts is the path that
    the values take, whatever the weights: a branch that runs later but beside `layer` is left out,
    and so is `layer` itself.

    >>> from polykit.runtime.passes.trace import trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> x = torch.zeros(1, 2)
    >>> downstream(model, x, "1", trace(model, x), ["0", "1", "3"])
    ('3',)
    """
    site = Site(layer, "post")
    sites = [Site(other) for other in dict.fromkeys(layers) if other != layer]
    with evaluating(model), torch.enable_grad():
        own = capture(model, x[:1], [site], trace).values[site].detach()
        fed = own.clone().requires_grad_()
        values = capture(model, x[:1], sites, trace, feed=(site, fed)).values
        return tuple(found.layer for found in sites if _depends(values[found], fed))


def _depends(value: Tensor, fed: Tensor) -> bool:
    """Whether a path of the recorded graph leads from `fed` to `value`."""
    if not value.requires_grad:
        return False
    (slope,) = torch.autograd.grad(value.sum(), fed, allow_unused=True, retain_graph=True)
    return slope is not None
