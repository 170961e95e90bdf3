"""From a network to what may be pruned in it, and from a mask back to a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from polykit.errors import ModelError, RunError, UsageError
from polykit.runtime.addressing import select_layers
from polykit.types import Candidates, Competition, Granularity, Mask, Trace, UnitRef


def candidates(
    model: nn.Module,
    trace: Trace,
    granularity: Granularity = "weight",
    competition: Competition = "global",
    *,
    layers: Iterable[str] | None = None,
    target: UnitRef | None = None,
) -> Candidates:
    """Return what may be pruned: the weights of the conv and linear layers that the pass reaches.

    Biases stay, except that a whole unit takes its bias along. The output layer keeps all its
    units when units are removed. With a `target` unit only what comes before it in the pass, and
    the target's own row, may go. `layers` (globs) narrows the choice. A weight that two layers
    share is one candidate.

    Raises UsageError if nothing is left to prune, ModelError for NaN or infinite weights.
    """
    chosen = list(trace.layers) if layers is None else list(_weighted(trace, layers))
    if target is not None:
        chosen = chosen[: _target_position(trace, chosen, target) + 1]
    elif granularity == "unit":
        chosen = [layer for layer in chosen if layer != trace.output_layer]
    modules = dict(model.named_modules())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shapes: dict[str, tuple[int, ...]] = {}
    eligible: dict[str, Tensor] = {}
    biases: dict[str, str] = {}
    for layer in chosen:
        weight, bias = modules[layer].weight, modules[layer].bias
        if not (isinstance(weight, nn.Parameter) and id(weight) in names):
            raise ModelError(
                f"layer {layer!r} computes its weight (a parametrisation); make it plain first, "
                f"with torch.nn.utils.parametrize.remove_parametrizations"
            )
        name = names[id(weight)]
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(
                f"weights of layer {layer!r} hold NaN or infinity; train or load again"
            )
        shapes[name] = tuple(weight.shape)
        if granularity == "unit" and bias is not None:
            biases[name] = names[id(bias)]
        if target is not None and layer == target.layer:
            rows = torch.zeros(weight.shape[0], dtype=torch.bool)
            rows[target.index] = True
            part = Candidates({name: shapes[name]}, granularity).element_shape(name)
            eligible[name] = rows.view(-1, *(1,) * (len(part) - 1)).expand(part)
    if not shapes:
        raise UsageError(
            "there is nothing to prune: no conv or linear layer is in scope; widen --prune-layer "
            "or take granularity weight"
        )
    return Candidates(shapes, granularity, competition, eligible, biases)


def _weighted(trace: Trace, globs: Iterable[str]) -> Iterator[str]:
    """Conv and linear layers among those the globs name, the output layer included."""
    for glob in globs:
        if not any(name in trace.layers for name in select_layers(trace, [glob])):
            raise UsageError(f"no conv or linear layer matches {glob!r}; only those can be pruned")
    every = set(trace.layers)
    wanted = {name for glob in globs for name in select_layers(trace, [glob])} & every
    if "*" in globs:
        wanted |= every
    yield from (layer for layer in trace.layers if layer in wanted)


def _target_position(trace: Trace, layers: list[str], target: UnitRef) -> int:
    calls = trace.of(target.layer)
    if not calls:
        raise UsageError(f"the forward pass never reaches the target layer {target.layer!r}")
    if target.index >= calls[0].units:
        raise UsageError(f"layer {target.layer!r} has units 0 to {calls[0].units - 1}: no {target}")
    order = [call.layer for call in trace.calls]
    last = order.index(target.layer)
    before = [index for index, layer in enumerate(layers) if order.index(layer) <= last]
    if not before:
        raise UsageError(f"nothing in scope lies before the target {target}")
    return before[-1]


def masked_parameters(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Return the masked parameters, weight · mask, as new tensors; the model is not touched."""
    own = dict(model.named_parameters())
    return {name: own[name].detach() * keep for name, keep in on_model(model, mask).items()}


def on_model(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Return the mask's tensors on the parameters' devices; raise UsageError if it does not fit."""
    own = dict(model.named_parameters())
    moved = {}
    for name in mask:
        if name not in own or own[name].shape != mask[name].shape:
            raise UsageError(f"the mask has an entry {name!r} that does not fit the model")
        moved[name] = mask[name].to(own[name].device)
    return moved


def apply_mask(model: nn.Module, mask: Mask) -> None:
    """Set the removed parameters of `model` to zero, for good."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, keep in on_model(model, mask).items():
            own[name].mul_(keep)


@contextmanager
def masked(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """Zero the removed parameters inside the block; behind it the old values are back.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> with masked(model, Mask({"weight": torch.tensor([[False]])})):
    ...     float(model.weight)
    0.0
    """
    own = dict(model.named_parameters())
    kept = on_model(model, mask)
    saved = {name: own[name].detach().clone() for name in kept}
    apply_mask(model, mask)
    try:
        yield model
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(value)


def dead_layers(model: nn.Module, trace: Trace, mask: Mask) -> tuple[str, ...]:
    """Name the layers that keep no weight at all: nothing of the input passes through them."""
    modules = dict(model.named_modules())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {layer: names.get(id(modules[layer].weight), "") for layer in trace.layers}
    return tuple(
        layer for layer, name in weights.items() if name in mask and not bool(mask[name].any())
    )


def mask_bytes(mask: Mask, notes: Mapping[str, str] | None = None) -> bytes:
    """Serialise a mask as safetensors: `keep/NAME`, and `eligible/NAME` where not all may go."""
    tensors = {f"keep/{name}": mask[name] for name in mask}
    for name in mask:
        part = mask.eligible(name)
        if not bool(part.all()):
            tensors[f"eligible/{name}"] = part
    return save(tensors, {"polykit": json.dumps(dict(notes or {}), sort_keys=True)})


def load_mask(path: Path) -> Mask:
    """Read a mask written from `mask_bytes`; raise RunError if the file is not one."""
    try:
        tensors = load(path.read_bytes())
        keep = {n.removeprefix("keep/"): t for n, t in tensors.items() if n.startswith("keep/")}
        part = {
            n.removeprefix("eligible/"): t for n, t in tensors.items() if n.startswith("eligible/")
        }
        return Mask(keep, part)
    except (OSError, SafetensorError, UsageError) as error:
        raise RunError(f"{path} is no mask: {error}") from error
