"""Structural pruning: whole units go, and a smaller network comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import grad, vmap

from polykit.api import StructuralPruner
from polykit.errors import UsageError
from polykit.runtime.pruning.structure import Borrowed, Structure
from polykit.types import Batches, Candidates, Objective, Smaller
from polykit_builtins.pruners.contest import Contest, entries_of, sides_of

_GRADIENT_MEMORY = 2**26
"""Numbers that per-sample gradients computed together may take: 256 MB in float32."""

_ABSOLUTE = ("lamp", "random")
"""Importances that bring a scale of their own, the same for all layers."""


class Structured(StructuralPruner):
    """Removes the least important units of the network, or of each layer, with their weights.

    Units that are coupled (by a residual sum, a depthwise convolution) go together; the output
    layer stays. `input-weight` is the mean |weight| of what a unit reads, averaged over coupled
    layers. `published` is that score as the thesis' code computes it: the scores of the layers
    that read the group are appended, and take part in the ranking although they stand for no
    unit. `random` draws from the run's generator; the others are torch-pruning's, of which
    `taylor` and `hessian` look at the gradient of the objective. With `normalise` scores
    are divided by their mean in the layer, since layers of different fan-in have different
    weights; `lamp` and `random` need that not.

    Global: the units are removed in order of score, and as few as bring the density to the one
    asked for or below. By layer: every layer keeps the same share of its units, rounded down, the
    largest that does. Units that can only go together count as one; a layer of one unit stays and
    is not counted. The thesis' runs are `importance=input-weight` (or `published`),
    `normalise=false, counts=units, overflow=skip`, with density 1 − its nominal pruning ratio.

    Source: Plettscher, thesis on pruning and polysemanticity, §3; Fang et al. 2023, DepGraph;
    for the importances see torch-pruning's documentation.
    """

    argument: ClassVar[str] = "importance"

    importance: Literal["input-weight", "published", "random"] | Borrowed = Field(
        "input-weight", description="what a unit is worth"
    )
    normalise: bool = Field(
        True, description="divide scores by their mean in the layer before layers compete"
    )
    counts: Literal["parameters", "units"] = Field(
        "parameters", description="what the density is a share of: all parameters, or units"
    )
    overflow: Literal["protect", "skip"] = Field(
        "protect",
        description="when a layer loses too many units: its best ones stay and others go instead, "
        "or it is left whole, which is torch-pruning's rule",
    )
    at_least: int = Field(
        1,
        ge=0,
        description="units that every layer keeps; 0 lets linear layers be emptied",
    )

    def shrink(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        density: float,
        candidates: Candidates,
        generator: torch.Generator,
    ) -> Smaller:
        """Return the smaller network; `notices` name layers that were protected or left whole.

        Raises UsageError for a density that cannot be reached (it names one that can), a unit to
        preserve, or layers that must stay; ModelError for a network torch-pruning cannot cut.
        """
        if not 0 < density <= 1:
            raise UsageError(f"density {density:g} is outside (0, 1]; 0.1 keeps a tenth")
        if objective.target is not None:
            raise UsageError(
                f"structured prunes for the whole task, not for unit {objective.target}: with "
                f"whole units gone there is no such unit; take the objective task, or a pruner "
                f"that makes masks"
            )
        example = next((x[:1] for x, _ in batches), None)
        if example is None:
            raise UsageError("structured needs a sample to follow through the network; got none")
        structure = Structure(model, example)
        layers = {name.rpartition(".")[0] for name in candidates.shapes}
        sides, notices = sides_of(structure, layers, self.at_least)
        places = [side.index for side in sides]
        scores = self._scores(structure, places, model, objective, batches, generator)
        entries = [entries_of(*pair) for pair in zip(sides, scores, strict=True)]
        contest = Contest(structure, sides, entries, self.counts, self.overflow, density)
        left, said = contest.by_layer() if candidates.competition == "layer" else contest.overall()
        return structure.smaller(
            contest.kept(left), allow_empty=self.at_least == 0, notices=[*notices, *said]
        )

    def _scores(
        self,
        structure: Structure,
        places: Sequence[int],
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        generator: torch.Generator,
    ) -> list[Tensor]:
        """Return the scores of the groups in these places; `published` ones are longer."""
        kind = self.importance
        if kind == "random":
            sizes = [structure.groups[index].size for index in places]
            scores = [torch.rand(size, generator=generator) for size in sizes]
        elif kind == "input-weight":
            scores = [input_weight(structure, index, model) for index in places]
        elif kind == "published":
            scores = [published(structure, index, model) for index in places]
        elif kind in ("taylor", "hessian"):
            gradients = mean_gradients(model, objective, batches, squared=kind == "hessian")
            scores = structure.coupling.importance(kind, places, gradients)
        else:
            scores = structure.coupling.importance(kind, places)
        for index, values in zip(places, scores, strict=True):
            if not bool(torch.isfinite(values).all()):
                raise UsageError(
                    f"scores of layer {structure.groups[index].layers[0]!r} hold NaN or infinity; "
                    f"look for them in the weights or in the data"
                )
        scores = [values.double() for values in scores]
        if not self.normalise or kind in _ABSOLUTE:
            return scores
        return [values / (values.mean() or 1) for values in scores]


def input_weight(structure: Structure, index: int, model: nn.Module) -> Tensor:
    """Return the mean |input weight| of each unit of a group, averaged over its layers."""
    total = torch.zeros(structure.groups[index].size)
    parts = torch.zeros_like(total)
    for layer in structure.groups[index].layers:
        values = _mean_weight(model, layer)
        total += structure.coupling.by_unit(index, layer, values, 0)
        parts += structure.coupling.by_unit(index, layer, torch.ones_like(values), 0)
    return total / parts


def published(structure: Structure, index: int, model: nn.Module) -> Tensor:
    """Return the scores of a group's layers and of those that read them, one after the other."""
    group = structure.groups[index]
    return torch.cat([_mean_weight(model, layer) for layer in (*group.layers, *group.feeds)])


def _mean_weight(model: nn.Module, layer: str) -> Tensor:
    """Mean |weight| of what each unit of a layer reads: `(units,)`."""
    weight = model.get_submodule(layer).get_parameter("weight").detach()
    return weight.abs().flatten(1).mean(1).float().cpu()


def mean_gradients(
    model: nn.Module, objective: Objective, batches: Batches, *, squared: bool
) -> dict[str, Tensor]:
    """Return the gradient of the mean objective, or the mean of squared per-sample gradients.

    By parameter name. Memory: one set of gradients, or as many as fit in 256 MB.
    """
    params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    device = next(iter(params.values())).device
    per_sample = vmap(
        grad(lambda free, x, y: objective.values(model, x, y, params=free).sum()),
        in_dims=(None, 0, 0),
        chunk_size=max(1, _GRADIENT_MEMORY // sum(p.numel() for p in params.values())),
    )
    seen = 0
    for batch, labels in batches:
        x, y = batch.to(device), labels.to(device)
        if squared:
            free = {name: p.detach() for name, p in params.items()}
            for name, gradient in per_sample(free, x.unsqueeze(1), y.unsqueeze(1)).items():
                total[name] += gradient.square().sum(0)
        else:
            with torch.enable_grad():
                value = objective.values(model, x, y, params=params).sum()
            found = torch.autograd.grad(value, list(params.values()), materialize_grads=True)
            for name, gradient in zip(params, found, strict=True):
                total[name] += gradient
        seen += len(x)
    return {name: value / seen for name, value in total.items()}
