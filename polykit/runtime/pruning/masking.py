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
from polykit.runtime.passes.addressing import select_layers
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
    chosen = list(trace.layers) if layers is None else _weighted(trace, layers)
    if target is not None:
        chosen = _up_to(target, trace, chosen)
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
        if granularity == "unit" and bias is not None:
            biases[name] = names[id(bias)]
        if target is not None and layer == target.layer and name not in shapes:
            rows = torch.zeros(weight.shape[0], dtype=torch.bool)
            rows[target.index] = True
            part = Candidates({name: tuple(weight.shape)}, granularity).element_shape(name)
            eligible[name] = rows.view(-1, *(1,) * (len(part) - 1)).expand(part)
        shapes[name] = tuple(weight.shape)
    if not shapes:
        raise UsageError(
            "there is nothing to prune: no conv or linear layer is in scope; widen --prune-layer "
            "or take granularity weight"
        )
    return Candidates(shapes, granularity, competition, eligible, biases)


def _weighted(trace: Trace, globs: Iterable[str]) -> list[str]:
    """Conv and linear layers among those the globs name, the output layer included in `*`."""
    wanted: set[str] = set()
    for glob in globs:
        found = trace.layers if glob == "*" else select_layers(trace, [glob])
        if not set(found) & set(trace.layers):
            raise UsageError(f"no conv or linear layer matches {glob!r}; only those can be pruned")
        wanted.update(found)
    return [layer for layer in trace.layers if layer in wanted]


def _up_to(target: UnitRef, trace: Trace, layers: list[str]) -> list[str]:
    """Return those of `layers` that the pass reaches no later than the target's."""
    if target.layer not in trace.layers:
        raise UsageError(f"no conv or linear layer {target.layer!r} is reached")
    units = trace.of(target.layer)[0].units
    if target.index >= units:
        raise UsageError(f"layer {target.layer!r} has units 0 to {units - 1}: no {target}")
    first = trace.layers[: trace.layers.index(target.layer) + 1]
    before = [layer for layer in layers if layer in first]
    if not before:
        raise UsageError(f"nothing in scope lies before the target {target}")
    return before


def masked_parameters(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Return the masked parameters, weight · mask, as new tensors; the model is not touched."""
    own = dict(model.named_parameters())
    return {name: own[name].detach() * keep for name, keep in on_model(model, mask).items()}


def on_model(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Return the mask's tensors on the parameters' devices; raise UsageError if it does not fit."""
    own = dict(model.named_parameters())
    moved = {}
    for name, keep in mask.items():
        if name not in own or own[name].shape != keep.shape:
            raise UsageError(f"the mask has an entry {name!r} that does not fit the model")
        moved[name] = keep.to(own[name].device)
    return moved


def apply_mask(model: nn.Module, mask: Mask) -> None:
    """Set the removed parameters of `model` to zero, for good."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, keep in on_model(model, mask).items():
            own[name].masked_fill_(~keep, 0)


@contextmanager
def masked(model: nn.Module, mask: Mask) -> Iterator[nn.Module]:
    """Zero the removed parameters inside the block; behind it the old values are back.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> with masked(model, Mask({"weight": torch.tensor([[False]])})):
    ...     model.weight.item()
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
        mask = Mask(keep, part)
    except (OSError, SafetensorError, UsageError) as error:
        raise RunError(f"{path} is no mask: {error}") from error
    if not mask:
        raise RunError(f"{path} is no mask: it has no entry keep/NAME")
    return mask
