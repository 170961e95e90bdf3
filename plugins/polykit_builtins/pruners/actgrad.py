"""ActGrad: activation times gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from polykit.api import SaliencyPruner
from polykit.errors import ModelError
from polykit.runtime.masking import masked_parameters
from polykit.types import Batches, Candidates, Granularity, Mask, Objective, Scores

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""layer, its input, the gradient at its output `[n, units, *positions]` → summed scores."""


def unit_scores(layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |a · g|: `(units,)`."""
    product = (_units_second(layer, layer(x)) * g).abs()
    return product.reshape(*product.shape[:2], -1).mean(2).sum(0)


def weight_scores(layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |w · x · g| for each single weight.

    Since |w x g| = |w| |x| |g|, this is the layer's own weight gradient on absolute values.
    """
    weight = layer.get_parameter("weight").detach()
    probe = torch.zeros_like(weight, requires_grad=True)
    with torch.enable_grad():
        out = _units_second(layer, functional_call(layer, {"weight": probe}, (x.abs(),)))
        (moved,) = torch.autograd.grad(out, probe, g.abs())
    return moved * weight.abs() / g[0, 0].numel()


def _units_second(layer: nn.Module, out: Tensor) -> Tensor:
    return out.movedim(-1, 1) if isinstance(layer, nn.Linear) else out


def kernel_scores(layer: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |a_oi · g_o|, a_oi = w_oi ∗ x_i: `(out, in)`.

    The a_oi are held for one input channel (of each group) at a time, never all at once.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return weight_scores(layer, x, g)
    if layer.padding_mode != "zeros":
        raise ModelError(
            f"kernel scores of ActGrad need zero padding, not {layer.padding_mode!r}; "
            f"take granularity weight or unit"
        )
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    weight = layer.weight.detach()
    inputs = weight.shape[1]
    scores = weight.new_zeros(weight.shape[:2])
    for i in range(inputs):
        channel, kernels = x[:, i::inputs], weight[:, i : i + 1]
        part = convolve(
            channel, kernels, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        scores[:, i] = part.mul_(g).abs_().flatten(2).mean(2).sum(0)
    return scores


_RULES: dict[Granularity, Rule] = {
    "unit": unit_scores,
    "kernel": kernel_scores,
    "weight": weight_scores,
}
_AXES: dict[Granularity, int | None] = {"unit": 1, "kernel": 2, "weight": None}


@dataclass(frozen=True)
class _Call:
    """One call of a layer in a forward pass."""

    layer: nn.Module
    weight: str
    input: Tensor
    output: Tensor


def activation_gradient_scores(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    mask: Mask,
    names: Sequence[str],
    granularity: Granularity,
) -> dict[str, Tensor]:
    """Return the mean over images of |activation · gradient|: weight name → element shape.

    Inputs and gradients are those of the network masked by `mask`, read at each layer's output
    before the nonlinearity; a removed element is scored with the values it would come back with.
    Gradients are taken image by image: batches are only chunks. A layer called twice, or two that
    share a weight, add up.
    """
    own = dict(model.named_parameters())
    params = {
        name: value.requires_grad_() for name, value in masked_parameters(model, mask).items()
    }
    total = {name: own[name].new_zeros(own[name].shape[: _AXES[granularity]]) for name in names}
    device = own[names[0]].device
    seen = 0
    for x, y in batches:
        with _recorded(model, names) as calls, torch.enable_grad():
            value = objective.values(model, x.to(device), y.to(device), params=params).sum()
        gradients = torch.autograd.grad(
            value, [call.output for call in calls], materialize_grads=True
        )
        for call, gradient in zip(calls, gradients, strict=True):
            g = _units_second(call.layer, gradient)
            with torch.no_grad():
                total[call.weight] += _RULES[granularity](call.layer, call.input, g)
        seen += len(x)
    return {name: value / seen for name, value in total.items()}


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[list[_Call]]:
    """Record the calls of the layers that own the weights `names` in the block's forward pass.

    The pass goes on with a copy of each output, so that nothing overwrites what is recorded.
    """
    wanted = {id(model.get_parameter(name)): name for name in names}
    calls: list[_Call] = []

    def hook(layer: nn.Module, weight: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            calls.append(_Call(layer, weight, inputs[0].detach(), output))
            return output.clone()

        return record

    hooks = [
        layer.register_forward_hook(hook(layer, wanted[id(layer.weight)]))
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and id(layer.weight) in wanted
    ]
    try:
        yield calls
    finally:
        for handle in hooks:
            handle.remove()


class ActGrad(SaliencyPruner):
    """Scores the mean over images and positions of |activation · gradient|.

    Of a unit: |a · ∂f/∂a|. Of a kernel (o, i): |a_oi · ∂f/∂a_o| with a_oi = w_oi ∗ x_i, the
    kernel's part of the activation. Of a weight: |w x · ∂f/∂a_o|, its own part.
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
        """Return the mean |activation · gradient| of each element."""
        found = activation_gradient_scores(
            model, objective, batches, mask, list(candidates.shapes), candidates.granularity
        )
        return Scores(found, candidates)
