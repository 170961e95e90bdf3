"""How much of a network is left: density, parameters, floating point operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import ClassVar, cast

from torch import Tensor

from polykit.api import Metric
from polykit.runtime.pruning.effective import effective_mask
from polykit.types import Column, Mask, Measurement, Subject


class Density(Metric):
    """Kept share of the parameters that could be pruned, by the mask and by its effect.

    `effective_density` counts only what lies on a path of kept weights from the input to the
    output. A network that was made smaller counts all its parameters against those it had; one
    that was neither masked nor made smaller has density 1.
    """

    columns: ClassVar[dict[str, Column]] = {
        "density": Column("kept parameters / parameters that could be pruned", "share", 0, 1),
        "effective_density": Column("the same, on a path from input to output only", "share", 0, 1),
    }
    headline: ClassVar[str] = "density"

    def measure(self, subject: Subject) -> Measurement:
        """Count the mask; raises ModelError where paths through the model cannot be followed."""
        if subject.mask is None:
            density = subject.cut.density if subject.cut else 1.0
            return Measurement(summary={"density": density, "effective_density": density})
        x, _ = next(iter(subject.data.test.batches(1)))
        effective = effective_mask(subject.model, subject.mask, x.to(subject.device))
        nominal, real = layer_densities(subject.mask), layer_densities(effective)
        return Measurement(
            layers={
                layer: {"density": nominal[layer], "effective_density": real[layer]}
                for layer in nominal
            },
            summary={"density": subject.mask.density, "effective_density": effective.density},
        )


class Parameters(Metric):
    """Number of parameters of the whole network that no mask has removed."""

    columns: ClassVar[dict[str, Column]] = {
        "parameters": Column("parameters that are not removed", "parameters", 0)
    }
    headline: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> Measurement:
        """Count all parameters, shared ones once, less those the mask removes."""
        total = sum(parameter.numel() for parameter in subject.model.parameters())
        mask: Mapping[str, Tensor] = subject.mask or {}
        removed = sum(int((~mask[name]).sum()) for name in mask)
        return Measurement(summary={"parameters": float(total - removed)})


class Flops(Metric):
    """Floating point operations of the conv and linear layers for one sample, forward.

    Two per multiplication with a weight (multiply, add), at every position of the map and every
    call of the layer; biases, nonlinearities and attention products are not counted.
    """

    columns: ClassVar[dict[str, Column]] = {
        "flops": Column("operations with kept weights, per sample", "FLOP", 0),
        "dense_flops": Column("operations with all weights, per sample", "FLOP", 0),
    }
    headline: ClassVar[str] = "flops"

    def measure(self, subject: Subject) -> Measurement:
        """Multiply each layer's weights by its positions."""
        mask: Mapping[str, Tensor] = subject.mask or {}
        names = {id(parameter): name for name, parameter in subject.model.named_parameters()}
        layers: dict[str, dict[str, float]] = {}
        for call in subject.trace.calls:
            if call.kind == "other":
                continue
            weight = cast(Tensor, subject.model.get_submodule(call.layer).weight)
            name = names.get(id(weight), "")  # a shared weight has one name
            kept = int(mask[name].sum()) if name in mask else weight.numel()
            sums = layers.setdefault(call.layer, dict.fromkeys(self.columns, 0.0))
            sums["flops"] += 2 * kept * call.positions
            sums["dense_flops"] += 2 * weight.numel() * call.positions
        summary = {name: sum(sums[name] for sums in layers.values()) for name in self.columns}
        return Measurement(layers=layers, summary=summary)


def layer_densities(mask: Mask) -> dict[str, float]:
    """Return the density of each layer that could be pruned, weight and bias together.

    >>> import torch
    >>> layer_densities(Mask({"0.weight": torch.tensor([[True], [False]])}))
    {'0': 0.5}
    """
    kept: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for name in mask:
        part = mask.eligible(name)
        layer = name.rpartition(".")[0]
        kept[layer] += int((mask[name] & part).sum())
        total[layer] += int(part.sum())
    return {layer: kept[layer] / total[layer] for layer in total if total[layer]}
