"""Structural pruning: whole units go, and a smaller network comes back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import grad, vmap

from polykit.api import StructuralPruner
from polykit.errors import UsageError
from polykit.runtime.pruning.structure import OUTPUTS, Borrowed, Group, Structure
from polykit.types import Batches, Candidates, Objective, Smaller

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
        sides, notices = _sides(structure, layers, self.at_least)
        places = [side.index for side in sides]
        scores = self._scores(structure, places, model, objective, batches, generator)
        entries = [_entries(*pair) for pair in zip(sides, scores, strict=True)]
        contest = _Contest(structure, sides, entries, self.counts, self.overflow, density)
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


@dataclass(frozen=True)
class _Side:
    """A group that takes part: `parts` things that can go one by one, of which `least` stay."""

    index: int
    group: Group
    parts: int
    least: int

    @property
    def name(self) -> str:
        return " + ".join(map(repr, self.group.layers))


def _sides(structure: Structure, layers: set[str], at_least: int) -> tuple[list[_Side], list[str]]:
    """Return the groups whose layers may all be pruned, and what must be said of others."""
    sides, notices = [], []
    for index, group in enumerate(structure.groups):
        outside = [layer for layer in group.layers if layer not in layers]
        if outside and len(outside) < len(group.layers):
            inside = ", ".join(repr(layer) for layer in group.layers if layer in layers)
            notices.append(
                f"layer {inside} stays whole: it is coupled with "
                f"{', '.join(map(repr, outside))}, which is not to be pruned"
            )
        parts = group.size // group.together
        if not outside and parts > 1:
            units = at_least if group.can_empty else max(1, at_least)
            sides.append(_Side(index, group, parts, min(parts, ceil(units / group.together))))
    for layer, reason in structure.coupling.stays.items():
        if layer in layers and reason != OUTPUTS:
            notices.append(f"layer {layer!r} stays whole: {reason}")
    if not sides:
        raise UsageError(
            "there is no unit to remove: only the output layer is in scope, or layers that are "
            "coupled with others, or have one unit; widen --prune-layer"
        )
    return sides, notices


def _entries(side: _Side, scores: Tensor) -> Tensor:
    """Scores of what competes: one for each part, and behind them those that stand for no unit."""
    own = scores[: side.group.size].view(side.group.together, side.parts).mean(0)
    return torch.cat([own, scores[side.group.size :]])


def _ascending(scores: Tensor) -> Tensor:
    """Positions from the lowest score to the highest; of equal ones the later come first."""
    return len(scores) - 1 - scores.flip(0).argsort(stable=True)


@dataclass(frozen=True)
class _Contest:
    """Who stays. What is left of each side's entries is written as one bool tensor each."""

    structure: Structure
    sides: Sequence[_Side]
    entries: Sequence[Tensor]
    counts: Literal["parameters", "units"]
    overflow: Literal["protect", "skip"]
    density: float

    def kept(self, left: Sequence[Tensor]) -> list[Tensor]:
        """Kept units of every group of the network; groups that take no part keep all."""
        kept = [torch.ones(group.size, dtype=torch.bool) for group in self.structure.groups]
        for side, entries in zip(self.sides, left, strict=True):
            kept[side.index] = entries[: side.parts].repeat(side.group.together)
        return kept

    def _count(self, left: Sequence[Tensor]) -> int:
        if self.counts == "units":
            return sum(int(entries.count_nonzero()) for entries in left)
        return self.structure.parameters(self.kept(left))

    @property
    def _total(self) -> int:
        return sum(map(len, self.entries)) if self.counts == "units" else self.structure.original

    def _fits(self, left: Sequence[Tensor]) -> bool:
        slack = 1e-12 if self.counts == "parameters" else 0  # units: torch-pruning's rounding
        return self._count(left) <= self.density * self._total * (1 + slack)

    def overall(self) -> tuple[list[Tensor], list[str]]:
        """Remove the lowest of all, as few as reach the density."""
        order = _ascending(torch.cat(list(self.entries)))
        pairs = zip(self.sides, self.entries, strict=True)
        best = torch.cat([_best(scores, side.parts, side.least) for side, scores in pairs])
        free = order[~best[order]]
        going = free if self.overflow == "protect" else order
        numbers = range(len(going) + 1)
        number = bisect_left(numbers, True, key=lambda n: self._fits(self._without(going[:n])))
        if number > len(going):
            raise UsageError(
                f"density {self.density:g} cannot be reached: "
                f"{self._floor(self._count(self._without(free)) / self._total)}"
            )
        left = self._without(going[:number])
        if self.overflow == "skip":
            return self._skipping(left)
        return left, self._protected(self._without(order[:number]))

    def _without(self, gone: Tensor) -> list[Tensor]:
        """What is left of all entries, numbered through, without those."""
        lengths = [len(scores) for scores in self.entries]
        flat = torch.ones(sum(lengths), dtype=torch.bool)
        flat[gone] = False
        return list(flat.split(lengths))

    def by_layer(self) -> tuple[list[Tensor], list[str]]:
        """Keep the same share of every layer, rounded down: the largest that fits."""
        shares = sorted({n / len(e) for e in self.entries for n in range(len(e) + 1)})
        if self.counts == "units":
            left = self._at(self.density)
        else:
            fitting = bisect_left(shares, True, key=lambda s: not self._fits(self._at(s + 1e-9)))
            left = self._at(shares[max(0, fitting - 1)] + 1e-9)
        if self.overflow == "skip":
            return self._skipping(left)
        short = self._short(left)
        if short:
            least = bisect_left(shares, True, key=lambda s: not self._short(self._at(s + 1e-9)))
            share = shares[least]
            if self.counts == "parameters":
                share = self._count(self._at(share + 1e-9)) / self._total
            named = "; ".join(
                f"layer {side.name} {max(0, count)} of {side.parts}" for side, count in short
            )
            raise UsageError(
                f"density {self.density:g} in every layer would leave too few units ({named}): "
                f"{self._floor(share)}, or let the layers compete globally"
            )
        return left, []

    def _at(self, share: float) -> list[Tensor]:
        """The best entries of each side, the same share of each, rounded down."""
        return [_best(scores, len(scores), int(len(scores) * share)) for scores in self.entries]

    def _floor(self, share: float) -> str:
        return (
            f"with the units that must stay (at_least) it is {share:.4g} of the {self.counts}; "
            f"ask for {ceil(share * 1e4) / 1e4:g} or more"
        )

    def _short(self, left: Sequence[Tensor]) -> list[tuple[_Side, int]]:
        """Sides that would keep fewer than they must, and how many. Every entry that goes counts.

        An entry that stands for no unit counts, too, as it does for torch-pruning.
        """
        counts = [
            side.parts - int((~entries).count_nonzero())
            for side, entries in zip(self.sides, left, strict=True)
        ]
        pairs = zip(self.sides, counts, strict=True)
        return [(side, count) for side, count in pairs if count < side.least]

    def _protected(self, asked: Sequence[Tensor]) -> list[str]:
        """Say which sides would have kept too few by score alone."""
        counts = [
            int(entries[: side.parts].count_nonzero())
            for side, entries in zip(self.sides, asked, strict=True)
        ]
        return [
            f"layer {side.name}: by score {count} of {side.parts} units would stay; its best "
            f"{side.least} did (at_least), and others went instead"
            for side, count in zip(self.sides, counts, strict=True)
            if count < side.least
        ]

    def _skipping(self, left: list[Tensor]) -> tuple[list[Tensor], list[str]]:
        """Leave sides whole that would keep too few."""
        short = {side.index: count for side, count in self._short(left)}
        left = [
            torch.ones_like(entries) if side.index in short else entries
            for side, entries in zip(self.sides, left, strict=True)
        ]
        notices = [
            f"layer {side.name}: all but {max(0, short[side.index])} of {side.parts} units were "
            f"selected, so that it is left whole (overflow=skip)"
            for side in self.sides
            if side.index in short
        ]
        if notices:
            share = self._count(left) / self._total
            notices.append(f"{share:.4g} of the {self.counts} are kept, not {self.density:g}")
        return left, notices


def _best(scores: Tensor, parts: int, count: int) -> Tensor:
    """Mark the `count` highest among the first `parts` scores."""
    best = torch.zeros(len(scores), dtype=torch.bool)
    best[_ascending(scores[:parts])[parts - count :]] = True
    return best
