"""SNIP: how much the objective changes when a weight is switched off, to first order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import grad, vmap

from polykit.api import SaliencyPruner
from polykit.runtime.pruning.masking import masked_parameters
from polykit.types import Batches, Candidates, Mask, Objective, Scores

_GROUP_MEMORY = 2**26
"""Numbers that the gradients of the groups computed together may take: 256 MB in float32."""


def snip_saliency(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    mask: Mask,
    names: list[str],
    group: int | None = None,
) -> dict[str, Tensor]:
    """Return |∂f/∂m| = |w · ∂f/∂(w·m)| at `mask`, per weight: parameter name → weight shape.

    f is the mean objective over a group of images; the absolute values are averaged over groups,
    weighted by their size. `group=None` takes all images as one group, so that batches are only
    chunks and their size does not matter; `group=1` takes the absolute value per image. Removed
    weights are scored with the value they would come back with.

    Memory: one set of gradients, or with groups as many as fit in 256 MB.
    """
    params = {
        name: value.requires_grad_() for name, value in masked_parameters(model, mask).items()
    }
    weights = {name: params[name] for name in names}
    device = next(iter(weights.values())).device
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    seen = 0
    if group is None:
        for x, y in batches:
            with torch.enable_grad():
                value = objective.values(model, x.to(device), y.to(device), params=params).sum()
            grads = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
            for name, gradient in zip(weights, grads, strict=True):
                total[name] += gradient
            seen += len(x)
        total = {name: value.abs() for name, value in total.items()}
    else:
        fixed = {name: value.detach() for name, value in params.items() if name not in weights}

        def mean_objective(free: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return objective.values(model, x, y, params={**fixed, **free}).mean()

        size = sum(value.numel() for value in weights.values())
        per_group = vmap(
            grad(mean_objective), in_dims=(None, 0, 0), chunk_size=max(1, _GROUP_MEMORY // size)
        )
        free = {name: value.detach() for name, value in weights.items()}
        for x, y in _grouped(batches, group):
            for name, gradient in per_group(free, x.to(device), y.to(device)).items():
                total[name] += gradient.abs().sum(0) * x.shape[1]
            seen += x.shape[0] * x.shape[1]
    own = dict(model.named_parameters())
    return {name: value.detach() * own[name].detach().abs() / seen for name, value in total.items()}


def _grouped(batches: Batches, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a stream of batches into groups `[g, size, ...]`; the last group may be smaller."""
    rest: tuple[Tensor, Tensor] | None = None
    for x, y in batches:
        joined = (x, y) if rest is None else (torch.cat([rest[0], x]), torch.cat([rest[1], y]))
        whole = len(joined[0]) // size * size
        if whole:
            yield tuple(part[:whole].unflatten(0, (-1, size)) for part in joined)
        rest = (joined[0][whole:], joined[1][whole:])
    if rest is not None and len(rest[0]):
        yield rest[0][None], rest[1][None]


class Snip(SaliencyPruner):
    """Scores |w · ∂f/∂w|; a kernel or unit scores the mean over its weights.

    The published code takes the absolute value per batch, so that its result depends on the batch
    size; here the group of images is an option, and all images are one group by default.
    """

    group: int | None = Field(
        None, ge=1, description="images averaged before the absolute value; none = all, 1 = each"
    )

    def scores(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        candidates: Candidates,
        mask: Mask,
        generator: torch.Generator,
    ) -> Scores:
        """Return the mean |w · ∂f/∂(w·m)| of each element."""
        saliency = snip_saliency(
            model, objective, batches, mask, list(candidates.shapes), self.group
        )
        return Scores(
            {name: candidates.reduce(name, value) for name, value in saliency.items()}, candidates
        )
