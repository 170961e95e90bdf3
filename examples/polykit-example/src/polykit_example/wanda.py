"""Wanda: pruning by weights and activations.

Sun, Liu, Bair and Kolter 2023, *A simple and effective pruning approach for large language models*.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polykit.api import SaliencyPruner
from polykit.errors import UsageError
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import masked_parameters
from polykit.types import Batches, Candidates, Mask, Objective, Scores, Site


class Wanda(SaliencyPruner):
    """S_ij = |w_ij| · ‖x_j‖₂, the norm of input j over all samples and positions (eq. 1).

    For a convolution, j is an input channel and every weight of its kernel shares the norm. The
    inputs are those of the network as it is masked; the objective is not looked at. The paper
    compares weights within one output; here they compete in the scope that the user chose.
    """

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
        """Score every element; a group's score is the mean over its weights."""
        parameters = dict(model.named_parameters())
        users = {name: _users(model, parameters[name]) for name in candidates.shapes}
        squares = _input_squares(
            model, batches, [layer for part in users.values() for layer in part], mask
        )
        values = {}
        for name, layers in users.items():
            weight = parameters[name].detach().abs().double()
            total = torch.stack([squares[layer] for layer in layers]).sum(dim=0)
            norms = _per_group(total.sqrt(), model.get_submodule(layers[0]))
            per_weight = weight * norms.view(*norms.shape, *(1,) * (weight.dim() - 2))
            values[name] = candidates.reduce(name, per_weight)
        return Scores(values, candidates)


def _users(model: nn.Module, weight: nn.Parameter) -> list[str]:
    """Name the layers that use a weight: more than one where layers share it."""
    return [n for n, module in model.named_modules() if getattr(module, "weight", None) is weight]


def _per_group(norms: Tensor, module: nn.Module) -> Tensor:
    """Spread input norms `[in]` over a layer's outputs: `[1 or out, in of one group]`."""
    groups = getattr(module, "groups", 1)
    if groups == 1:
        return norms.view(1, -1)
    outputs: int = module.out_channels  # type: ignore[assignment]
    return norms.view(groups, -1).repeat_interleave(outputs // groups, dim=0)


@torch.no_grad()
def _input_squares(
    model: nn.Module, batches: Batches, layers: list[str], mask: Mask
) -> dict[str, Tensor]:
    """Sum of squares of each layer's inputs, over samples, positions and calls: layer → `[in]`."""
    parameters = masked_parameters(model, mask)
    sums: dict[str, Tensor] = {}
    path = None
    for x, _ in batches:
        path = path or trace(model, x)
        sites = [Site(layer, "input", call.call) for layer in layers for call in path.of(layer)]
        for site, value in capture(model, x, sites, path, params=parameters).values.items():
            linear = isinstance(model.get_submodule(site.layer), nn.Linear)
            last = value if linear else value.movedim(1, -1)
            square = last.double().square().flatten(0, -2).sum(dim=0)
            sums[site.layer] = sums.get(site.layer, torch.zeros_like(square)) + square
    if path is None:
        raise UsageError("wanda was given no samples to look at; give it at least one batch")
    return sums
