"""Reads activations on the way through a network, and puts others in their place.

The pass stops at the last site asked for; what a later in-place operation would overwrite is kept
by handing a copy on; modules called twice have two sites. Nothing is left on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polykit.errors import UsageError
from polykit.runtime.passes.trace import Follow, Key, evaluating
from polykit.types import LayerCall, Site, Trace

Reduce = Literal["mean", "max", "center"]
"""How a unit's map becomes one value."""


@dataclass(frozen=True)
class Captured:
    """What one pass gave: `values[site]` is `[n, units, *positions]`, the unit axis second.

    `sources[site]` is the same tensor as the network has it, with its own order of axes: the one
    that the outputs depend on, so that gradients can be taken with respect to it.
    """

    values: dict[Site, Tensor]
    outputs: Tensor | None
    sources: dict[Site, Tensor]


def capture(
    model: nn.Module,
    x: Tensor,
    sites: Sequence[Site],
    trace: Trace,
    *,
    params: Mapping[str, Tensor] | None = None,
    outputs: bool = False,
    feed: tuple[Site, Tensor] | None = None,
) -> Captured:
    """Run `model` on `x` and read `sites` on the way.

    `params` stand in for the model's own parameters of those names. Without `outputs` the pass
    ends at the last site. Gradients flow through what is read, unless they are switched off. A
    `post` site of a layer that no nonlinearity follows is the layer's output itself. `feed` names
    a `post` site and the values `[n, units, *positions]` that the network goes on with there
    instead of its own.

    Raises UsageError for a site the trace does not know, or for fed values of another shape.

    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(4, 2)
    >>> capture(model, x, [Site("0", "post")], trace(model, x)).values[Site("0", "post")].shape
    torch.Size([4, 3])
    """
    reader = _Reader(sites, trace, feed, stop=not outputs)
    hooks: list[Any] = []
    for layer in dict.fromkeys(site.layer for site in reader.sites):
        module = model.get_submodule(layer)
        hooks.append(module.register_forward_pre_hook(reader.before(layer)))
        hooks.append(module.register_forward_hook(reader.after(layer)))
    result: Tensor | None = None
    try:
        with suppress(_Enough), reader.follow if reader.follows else nullcontext():
            result = functional_call(model, dict(params), (x,)) if params else model(x)
    finally:
        for hook in hooks:
            hook.remove()
    values = {site: reader.values[site] for site in sites}
    return Captured(values, result, {site: reader.sources[site] for site in sites})


class _Enough(Exception):
    """Everything asked for has been read; never leaves `capture`."""


class _Reader:
    """The hooks of one pass."""

    def __init__(
        self, sites: Iterable[Site], trace: Trace, feed: tuple[Site, Tensor] | None, *, stop: bool
    ) -> None:
        self._wanted = set(sites)
        self._feed = dict([feed] if feed else [])
        self.sites = (*self._wanted, *self._feed)
        known = {(call.layer, call.call): call for call in trace.calls}
        self._calls: dict[Key, LayerCall] = {}
        for site in self.sites:
            call = known.get((site.layer, site.call))
            if call is None:
                raise UsageError(f"the forward pass never reaches {site}, so it cannot be read")
            self._calls[site.layer, site.call] = call
        for site, fed in self._feed.items():
            _check_fed(self._calls[site.layer, site.call], site, fed)
        self._stop = stop
        self._open = set(self._wanted)
        self._counts: dict[str, int] = {}
        self.values: dict[Site, Tensor] = {}
        self.sources: dict[Site, Tensor] = {}
        self.follow = Follow(self._activated)
        self.follows = any(site.at == "post" for site in self.sites)

    def before(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            self._counts[layer] = self._counts.get(layer, -1) + 1
            site = Site(layer, "input", self._counts[layer])
            if site not in self._wanted:
                return None
            return (self._take(site, inputs[0], move=False), *inputs[1:])

        return hook

    def after(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Any:
            key = (layer, self._counts[layer])
            pre, post = Site(layer, "pre", key[1]), Site(layer, "post", key[1])
            if pre in self._wanted:
                output = self._take(pre, output)
            if post in self.sites:
                if not self._calls[key].activated:
                    return self._put(post, output)
                self.follow.watch(output, key)
            return output

        return hook

    def _activated(self, key: Key, result: Tensor) -> Tensor:
        return self._put(Site(key[0], "post", key[1]), result)

    def _put(self, site: Site, tensor: Tensor) -> Tensor:
        """Put fed values in place of a `post` reading, if there are any, and keep it if wanted."""
        if site in self._feed:
            # a copy: the network may work in place on what the caller still holds
            tensor = self._feed[site].movedim(1, self._calls[site.layer, site.call].unit_axis)
            tensor = tensor.clone()
        return self._take(site, tensor) if site in self._wanted else tensor

    def _take(self, site: Site, tensor: Tensor, *, move: bool = True) -> Tensor:
        """Keep `tensor` for `site`; return what goes on through the network."""
        call = self._calls[site.layer, site.call]
        reading = site.at if site.at != "post" or call.activated else "pre"
        passed = tensor.clone() if reading in call.overwritten else tensor
        self.sources[site] = tensor
        self.values[site] = tensor.movedim(call.unit_axis, 1) if move else tensor
        self._open.discard(site)
        if self._stop and not self._open:
            raise _Enough
        return passed


def _check_fed(call: LayerCall, site: Site, fed: Tensor) -> None:
    if site.at != "post":
        raise UsageError(f"values can be fed in at post, behind {site}'s nonlinearity, not at pre")
    positions = list(call.shape)
    units = positions.pop(call.unit_axis - 1)
    if fed.shape[1:] != (units, *positions):
        raise UsageError(
            f"layer {site} has values of shape {(units, *positions)}, units first; "
            f"{tuple(fed.shape[1:])} cannot take their place"
        )


def unit_values(values: Tensor, reduce: Reduce = "mean") -> Tensor:
    """Reduce `[n, units, *positions]` to one value per unit, `[n, units]`.

    `center` is the middle position, `size // 2` along each axis: 6 of 13 in AlexNet's maps.

    >>> unit_values(torch.tensor([[[1.0, 2.0, 6.0]]]), "center")
    tensor([[2.]])
    """
    if values.dim() == 2:
        return values
    if reduce == "center":
        for size in values.shape[2:]:
            values = values.select(2, size // 2)
        return values
    flat = values.flatten(2)
    return flat.mean(dim=2) if reduce == "mean" else flat.amax(dim=2)


def collect(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    sites: Sequence[Site],
    trace: Trace,
    *,
    reduce: Reduce = "mean",
    device: torch.device | None = None,
) -> dict[Site, Tensor]:
    """Read one value per unit for all samples: site → `[n, units]`, on the CPU.

    One chunk is on the device at a time; what grows with the number of samples is the result.
    """
    parts: dict[Site, list[Tensor]] = {site: [] for site in sites}
    with evaluating(model), torch.no_grad():
        for x, _ in batches:
            captured = capture(model, x.to(device), sites, trace)
            for site, values in captured.values.items():
                parts[site].append(unit_values(values, reduce).cpu())
    return {site: torch.cat(chunks) for site, chunks in parts.items()}
