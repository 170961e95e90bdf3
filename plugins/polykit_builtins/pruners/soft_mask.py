"""A frozen network whose elements each have a multiplier, for pruners that learn which to keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from polykit.types import Candidates, Mask, Objective


class SoftMask:
    """Turns multipliers of elements into parameters, and slopes of those into slopes of these.

    The model's weights are read and never changed. Elements that may not go keep the multiplier 1,
    and those that `mask` has removed keep 0, whatever is given for them: `fixed`, of the weight's
    type. All others are `free`.
    """

    def __init__(self, model: nn.Module, candidates: Candidates, mask: Mask) -> None:
        own = dict(model.named_parameters())
        self.candidates = candidates
        self._weights = {
            name: own[name].detach() for name in (*candidates.shapes, *candidates.biases.values())
        }
        self.free: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        for name, kept in candidates.elements(mask).items():
            weight, eligible = self._weights[name], candidates.eligible_elements(name)
            self.free[name] = (kept & eligible).to(weight.device)
            self.fixed[name] = (kept | ~eligible).to(weight)

    def parameters(self, multipliers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weight · multiplier by parameter name, differentiable; a unit's bias included.

        `multipliers` maps each weight to a tensor of its element shape.
        """
        found = {}
        for name, given in multipliers.items():
            weight = self._weights[name]
            multiplier = torch.where(self.free[name], given, self.fixed[name])
            found[name] = weight * multiplier.view(
                *multiplier.shape, *(1,) * (weight.dim() - multiplier.dim())
            )
            if bias := self.candidates.biases.get(name):
                found[bias] = self._weights[bias] * multiplier
        return found

    def slopes(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ∂L/∂multiplier per parameter of the element, from ∂L/∂(weight · multiplier).

        It is the mean over an element's parameters, so that large and small elements compare; 0
        where an element is not free.
        """
        found = {}
        for name, free in self.free.items():
            slope = gradients[name] * self._weights[name]
            if slope.dim() > free.dim():
                slope = slope.sum(tuple(range(free.dim(), slope.dim())))
            if bias := self.candidates.biases.get(name):
                slope = slope + gradients[bias] * self._weights[bias]
            found[name] = (slope / self.candidates.element_size(name)).masked_fill_(~free, 0)
        return found

    def kept(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return which elements are free and have a logit above 0: name → bool."""
        return {name: (logits[name] > 0) & free for name, free in self.free.items()}

    def total(self, names: Iterable[str]) -> int:
        """Eligible parameters of these weights, whole units' biases included."""
        return sum(
            self.candidates.element_size(name)
            * int(self.candidates.eligible_elements(name).count_nonzero())
            for name in names
        )

    def density(self, logits: Mapping[str, Tensor], names: Iterable[str] | None = None) -> float:
        """Kept / eligible parameters of these weights, or of all."""
        names, kept = list(self.free if names is None else names), self.kept(logits)
        count = sum(
            self.candidates.element_size(name) * int(kept[name].count_nonzero()) for name in names
        )
        return count / self.total(names)


def mean_loss(
    objective: Objective, model: nn.Module, x: Tensor, y: Tensor, params: Mapping[str, Tensor]
) -> Tensor:
    """Return what a pruner that learns must make small, as the mean over the samples.

    It is the objective itself if that is a loss, else its squared distance from its value in
    `model` as it is: a value is to stay what it was. Samples go to where `params` are.
    """
    device = next(iter(params.values())).device
    x, y = x.to(device), y.to(device)
    values = objective.values(model, x, y, params=params)
    if objective.is_loss:
        return values.mean()
    with torch.no_grad():
        dense = objective.values(model, x, y)
    return (values - dense).square().mean()
