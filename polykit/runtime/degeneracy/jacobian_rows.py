"""Slopes in any network, by vector-Jacobian products batched over samples and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from polykit.errors import ModelError
from polykit.runtime.degeneracy.slope_rows import INPUT, Ones, Rows, in_double, with_one
from polykit.runtime.passes.capture import Captured, capture
from polykit.runtime.passes.dual import dual_numbers, tangent_of
from polykit.types import At, LayerCall, Site, Trace


def jacobian_rows(
    model: nn.Module,
    x: Tensor,
    trace: Trace,
    layers: Sequence[str],
    ones: Ones,
    numbers: int,
    at: At,
) -> Iterator[tuple[str, Rows]]:
    """Yield rows of `layers`, read at `at` in their first call, for `x [n, *shape]` in float64.

    Memory: about `numbers` slopes at a time, and the pass of as many samples as that makes.
    The constant feeds the biases, and the means that a batch normalisation with a bias takes off.
    """
    pass_ = _Pass(model, x, trace, layers, ones, at)
    outputs = pass_.outputs(x[:1]).shape[1]
    samples = max(1, numbers // (outputs * pass_.width))
    at_once = max(1, numbers // (samples * pass_.width))
    for chunk in x.split(samples):
        yield from pass_.rows(chunk, at_once)


class _Pass:
    """The network in float64, and the layers to look at; the model itself is not touched."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        trace: Trace,
        layers: Sequence[str],
        ones: Ones,
        at: At,
    ) -> None:
        if INPUT in layers and not x.is_floating_point():
            raise ModelError(
                "inputs of integers have no slopes; look at the layers behind the embedding"
            )
        self._model, self._trace = model, trace
        self._layers = tuple(layers)
        following = dict(zip((INPUT, *trace.layers), trace.layers, strict=False))
        self._next = {la: following[la] for la in layers if ones == "exo" and la in following}
        looked = dict.fromkeys((*layers, *self._next.values()))
        self._sites = {layer: Site(layer, at) for layer in looked if layer != INPUT}
        self._calls: dict[str, LayerCall] = {layer: trace.of(layer)[0] for layer in self._sites}
        self.width = sum(call.positions * (call.units + 1) for call in self._calls.values())
        self.width += x[0].numel() + 1 if INPUT in looked else 0
        self._tensors = in_double(model)

    def outputs(self, x: Tensor) -> Tensor:
        """The network's outputs `[n, k]`."""
        with torch.no_grad():
            return self._flat(self._run(x, self._tensors))

    def rows(self, x: Tensor, at_once: int) -> Iterator[tuple[str, Rows]]:
        """Yield the rows of one chunk, `at_once` outputs at a time."""
        with torch.enable_grad():
            if x.is_floating_point():
                x = x.detach().requires_grad_()
            found = self._run(x, self._tensors | self._watched())
        y, sources = self._flat(found), self._sources(found, x)
        along, through = self._constants(x)
        first = True
        for some in torch.eye(y.shape[1], dtype=y.dtype, device=y.device).split(at_once):
            slopes = dict(zip(sources, self._slopes(y, sources.values(), some), strict=True))
            # what the constants give beside the layer: all they give, less what passes through it
            held = {
                layer: along @ some.T - (slope * through[layer]).flatten(2).sum(2).T
                for layer, slope in slopes.items()
            }
            for layer in self._layers:
                one = held[layer] - (held[self._next[layer]] if layer in self._next else 0)
                values = self._samples(layer, sources[layer].detach()[None])
                rows = with_one(values[0].flatten(0, 1))
                yield (
                    layer,
                    Rows(rows if first else rows[:0], self._joined(layer, one, slopes[layer])),
                )
            first = False

    def _run(self, x: Tensor, tensors: dict[str, Tensor]) -> Captured:
        sites = tuple(self._sites.values())
        return capture(self._model, x, sites, self._trace, params=tensors, outputs=True)

    def _watched(self) -> dict[str, Tensor]:
        """The parameters as something that gradients flow from, also where inputs are integers."""
        names = dict(self._model.named_parameters())
        return {n: t.detach().requires_grad_() for n, t in self._tensors.items() if n in names}

    def _flat(self, found: Captured) -> Tensor:
        if not isinstance(found.outputs, Tensor):
            raise ModelError(
                f"{type(self._model).__name__} gives no single tensor, so its outputs have no "
                f"slopes; wrap it in a module that returns its logits"
            )
        return found.outputs.flatten(1)

    def _sources(self, found: Captured, x: Tensor) -> dict[str, Tensor]:
        sources = {layer: found.sources[site] for layer, site in self._sites.items()}
        return {INPUT: x, **sources} if INPUT in self._layers else sources

    def _constants(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Slopes of the outputs `[n, k]` and of the layers' values along all constants at once.

        One forward pass with dual numbers: every constant grows in proportion to its size.
        """
        with dual_numbers():
            duals = {
                name: forward_ad.make_dual(self._tensors[name], constant)
                for name, constant in constants(self._model, self._tensors).items()
            }
            found = self._run(x.detach(), self._tensors | duals)
            along = tangent_of(self._flat(found))
            sources = self._sources(found, x.detach())
            return along, {layer: tangent_of(source) for layer, source in sources.items()}

    @staticmethod
    def _slopes(y: Tensor, sources: Iterable[Tensor], directions: Tensor) -> Sequence[Tensor]:
        """Slopes `[k, n, ...]` of k combinations of outputs along all sources, in one go."""
        cotangents = directions[:, None].expand(-1, len(y), -1)
        return torch.autograd.grad(
            y,
            tuple(sources),
            cotangents,
            is_grads_batched=True,
            retain_graph=True,
            materialize_grads=True,
        )

    def _samples(self, layer: str, tensors: Tensor) -> Tensor:
        """Turn `[k, n, ...]` in the network's layout into `[k, n, positions, units]`."""
        if layer == INPUT:
            return tensors.flatten(2)[:, :, None]
        call = self._calls[layer]
        moved = tensors.movedim(call.unit_axis + 1, -1)
        return moved.reshape(*tensors.shape[:2], call.positions, call.units)

    def _joined(self, layer: str, one: Tensor, slopes: Tensor) -> Tensor:
        """Rows `[k n positions, units + 1]` from slopes and the constant's `one [n, k]`."""
        slopes = self._samples(layer, slopes)
        positions = slopes.shape[2]
        shared = (one.T / positions)[..., None, None].expand(-1, -1, positions, 1)
        return torch.cat([shared, slopes], dim=3).flatten(0, 2)


def constants(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each bias adds: itself, and in a batch normalisation also what its mean takes off."""
    found = {}
    for layer, module in model.named_modules():
        place = f"{layer}." if layer else ""
        for name, _ in module.named_parameters(recurse=False):
            if not (name.endswith("bias") and place + name in tensors):
                continue
            found[place + name] = tensors[place + name]
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and place + "running_mean" in tensors
            ):
                mean, var = (tensors[f"{place}running_{kind}"] for kind in ("mean", "var"))
                scale = tensors[place + "weight"] / (var + module.eps).sqrt()
                found[place + name] = tensors[place + name] - scale * mean
    return found
