"""Cuts a masked chain of layers down to the small network that does the same for one unit.

A unit that no input reaches is constant, and what it adds to the next layer is folded into that
layer's bias: into a map of biases where zero padding makes it differ from place to place. Units
that do not lead to the target just go. What is left gives the masked network's numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import ModelError, UsageError
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import apply_mask
from polykit.runtime.pruning.subnetworks import (
    CHANNELWISE,
    CONVOLUTIONS,
    NORMS,
    Extracted,
    make,
    settings,
)
from polykit.types import Mask, Site, Trace, UnitRef

_PASSED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_CONVOLVE: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _Stage:
    """One layer of the chain, with all its units, before anything is cut.

    `taken [in]` and `given [out]` say which units the input reaches, before and behind it; those
    of a flat layer are counted one by one. In a layer with weights, `weight [out, in, *kernel]`
    is the masked weight, and `shift [out, *map]` the bias and what constant units add.
    """

    name: str
    module: nn.Module
    taken: Tensor
    given: Tensor
    weight: Tensor | None = None
    shift: Tensor | None = None


def extract(model: nn.Module, mask: Mask, x: Tensor, target: UnitRef | None = None) -> Extracted:
    """Return the small network that gives what `model` masked by `mask` gives for the target.

    The target is a unit, before its nonlinearity; without one, all units of the output layer.
    `x [n, *shape]` are pictures of the size to be read; the two networks are compared on them, in
    float64 on the CPU, where `model` is copied to. Grouped convolutions become dense ones.

    Raises UsageError where the mask leaves no way from the input to the target; ModelError for
    networks that are no chain of convolutions, linear layers, poolings, batch normalisations and
    nonlinearities without parameters, or whose small one would differ.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> mask = Mask({"2.weight": torch.tensor([[True, False, False]])})
    >>> small = extract(model, mask, torch.zeros(1, 2))
    >>> print(small.model, small.parameters, small.original)
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=1, bias=True)
    ) 5 13
    """
    network = copy.deepcopy(model).double().cpu().eval()
    apply_mask(network, mask)
    found = trace(network, x.double().cpu())
    layer = found.output_layer if target is None else target.layer
    if layer not in found.layers:
        raise UsageError(f"the pass reaches no conv or linear layer {layer!r}")
    wanted = torch.ones(found.of(layer)[0].units, dtype=torch.bool)
    if target is not None:
        if target.index >= len(wanted):
            raise UsageError(f"layer {layer!r} has units 0 to {len(wanted) - 1}: no {target}")
        wanted = torch.arange(len(wanted)) == target.index
    stages = list(_followed(_chain(network, found, layer), found.input_shape))
    if not bool((stages[-1].given & wanted).any()):
        raise UsageError(
            f"the mask leaves no way from the input to {target or layer}, which is constant: there "
            f"is no network to extract; take a higher density"
        )
    layers, units = _cut(stages, _needed(stages, wanted), found.input_shape[0])
    small = nn.Sequential(*layers).eval().requires_grad_(False)
    _compare(small, network, x.double().cpu(), found, layer, wanted)
    own = next(model.parameters())
    return Extracted(
        model=small.to(own.device, own.dtype),
        units=units,
        parameters=sum(value.numel() for value in small.parameters()),
        original=sum(value.numel() for value in model.parameters()),
        target=target,
        input_shape=found.input_shape,
    )


def _chain(model: nn.Module, found: Trace, layer: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the innermost modules in the order of their calls, up to `layer`."""
    modules = dict(model.named_modules())
    for call in found.calls:
        module = modules[call.layer]
        if not any(True for _ in module.children()):
            yield call.layer, module
        if call.layer == layer:
            return


def _followed(
    chain: Iterator[tuple[str, nn.Module]], input_shape: Sequence[int]
) -> Iterator[_Stage]:
    """Follow constants from the input on, and yield the stages that do something.

    `still [units, *map]` are the values of units that no input reaches, 0 for all others.
    """
    reached = torch.ones(input_shape[0], dtype=torch.bool)
    still = torch.zeros(tuple(input_shape), dtype=torch.double)
    for name, module in chain:
        kind, layer, taken = type(module), cast("Any", module), reached
        if kind in _PASSED:
            continue
        if kind is nn.Flatten or (kind is nn.Linear and still.dim() > 1):
            reached = reached.repeat_interleave(still[0].numel())
            still = still.flatten()
            yield _Stage(name, nn.Flatten(), taken, reached)
            taken = reached
        if kind in CONVOLUTIONS or kind is nn.Linear:
            weight = _dense(layer.weight.detach(), getattr(layer, "groups", 1))
            shift = _applied(layer, weight, still)
            if layer.bias is not None:
                shift = shift + _beside(layer.bias.detach(), shift)
            reached = _wired(weight, taken=taken)
            still = shift.masked_fill(_beside(reached, shift), 0)
            yield _Stage(name, module, taken, reached, weight, shift)
        elif kind in CHANNELWISE or kind in NORMS:
            with torch.no_grad():
                still = module(still[None].clone())[0]  # it may work in place
            still = still.masked_fill(_beside(reached, still), 0)
            yield _Stage(name, module, taken, reached)
        elif kind is not nn.Flatten:
            raise ModelError(
                f"{name} ({kind.__name__}) cannot be cut: only chains of convolutions, linear "
                f"layers, poolings, batch normalisations and nonlinearities without parameters can"
            )


def _dense(weight: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution's weight with zeros between the groups: `[out, in, *kernel]`."""
    if groups == 1:
        return weight
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole


def _applied(layer: Any, weight: Tensor, still: Tensor) -> Tensor:
    """Return what constant inputs add to a layer's outputs: `[out, *map]`."""
    if isinstance(layer, nn.Linear):
        return weight @ still
    if layer.padding_mode != "zeros":
        raise ModelError(f"convolutions padded by {layer.padding_mode!r} cannot be cut")
    convolve = _CONVOLVE[type(layer)]
    return convolve(still[None], weight, None, layer.stride, layer.padding, layer.dilation)[0]


def _beside(units: Tensor, maps: Tensor) -> Tensor:
    """Shape `units [n]` so that it goes with `maps [n, *map]`."""
    return units.view(-1, *(1,) * (maps.dim() - 1))


def _wired(weight: Tensor, *, taken: Tensor) -> Tensor:
    """Which outputs have a weight from one of the inputs `taken`."""
    return (weight[:, taken] != 0).flatten(1).any(1)


def _needed(stages: Sequence[_Stage], wanted: Tensor) -> list[Tensor]:
    """Return for each stage which outputs lead to `wanted` outputs of the last one."""
    needed, need = [], wanted
    for stage in reversed(stages):
        needed.append(need)
        if stage.weight is not None:
            need = _wired(stage.weight.transpose(0, 1), taken=need) & stage.taken
        elif isinstance(stage.module, nn.Flatten):
            need = need.view(len(stage.taken), -1).any(1)
    return needed[::-1]


def _cut(
    stages: Sequence[_Stage], needed: Sequence[Tensor], inputs: int
) -> tuple[list[nn.Module], dict[str, Tensor]]:
    """Return the small network's layers, and which units each layer with weights keeps."""
    layers: list[nn.Module] = []
    units: dict[str, Tensor] = {}
    kept = torch.ones(inputs, dtype=torch.bool)  # pictures come as they are
    for stage, need in zip(stages, needed, strict=True):
        if stage.weight is not None and stage.shift is not None:
            layers += _small(stage.module, stage.weight[need][:, kept], stage.shift[need])
            units[stage.name] = need.nonzero().squeeze(1)
            kept = need
        elif isinstance(stage.module, nn.Flatten):
            layers.append(nn.Flatten())
            kept = kept.repeat_interleave(len(stage.given) // len(stage.taken))
        elif isinstance(stage.module, NORMS):
            layers.append(_norm(stage.module, kept))
        else:
            layers.append(make(type(stage.module).__name__, settings(stage.module)))
    return layers, units


def _small(module: nn.Module, weight: Tensor, shift: Tensor) -> Iterator[nn.Module]:
    """Yield a layer with these weights, and where its bias differs between places, a shift."""
    flat = shift.flatten(1) if shift.dim() > 1 else shift[:, None]
    spread = flat.amax(1) - flat.amin(1)
    even = bool((spread <= 1e-12 * flat.abs().amax(1)).all())
    first, second = ("in_channels", "out_channels")
    if isinstance(module, nn.Linear):
        first, second = ("in_features", "out_features")
    arguments = settings(module) | {first: weight.shape[1], second: weight.shape[0], "bias": even}
    layer = make(type(module).__name__, arguments)
    state = {"weight": weight, "bias": flat[:, 0]} if even else {"weight": weight}
    layer.load_state_dict(state, assign=True)
    yield layer
    if not even:
        moved = make("Shift", {"shape": tuple(shift.shape)})
        moved.load_state_dict({"value": shift}, assign=True)
        yield moved


def _norm(module: Any, kept: Tensor) -> nn.Module:
    """Return a batch normalisation of the kept units."""
    arguments = settings(module) | {"num_features": int(kept.count_nonzero())}
    layer = make(type(module).__name__, arguments)
    state = module.state_dict()
    cut = {name: v[kept] if v.dim() else v.clone() for name, v in state.items()}
    layer.load_state_dict(cut, assign=True)
    return layer


def _compare(
    small: nn.Module, network: nn.Module, x: Tensor, found: Trace, layer: str, wanted: Tensor
) -> None:
    """Raise ModelError where the small network differs from the masked one on `x`."""
    site = Site(layer)
    with torch.no_grad():
        expected = capture(network, x, [site], found).values[site][:, wanted]
        given = small(x)
    kind = type(network).__name__
    if given.shape != expected.shape:
        raise ModelError(f"{kind} is no chain of layers, so it cannot be cut")
    apart = float((given - expected).abs().max())
    if not apart <= _TOLERANCE * float(expected.abs().max()):
        raise ModelError(
            f"the small network differs by {apart:.2g} from the masked one: {kind} does more than "
            f"its layers one after the other"
        )
