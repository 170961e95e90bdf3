"""ActGrad: activation times gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from polykit.api import SaliencyPruner
from polykit.errors import ModelError
from polykit.runtime.capture import recording
from polykit.runtime.masking import masked_parameters
from polykit.runtime.trace import trace
from polykit.types import Batches, Candidates, Granularity, Mask, Objective, Scores, Site

_CHUNK = 2**24
"""Numbers that the partial activations held at once may take: 64 MB in float32."""

Rule = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""layer, its input, its output, the gradient at its output → summed scores of its elements."""


def unit_scores(layer: nn.Module, x: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |a · g|: `(units,)`."""
    product = (a * g).abs().flatten(2) if a.dim() > 2 else (a * g).abs().unsqueeze(2)
    return product.mean(2).sum(0)


def weight_scores(layer: nn.Module, x: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |w · x · g| for each single weight.

    Since |w x g| = |w| |x| |g|, this is the layer's own weight gradient on absolute values.
    """
    assert isinstance(layer.weight, Tensor)
    probe = torch.zeros_like(layer.weight, requires_grad=True)
    with torch.enable_grad():
        out = functional_call(layer, {"weight": probe}, (x.abs(),))
        if isinstance(layer, nn.Linear):
            out = out.movedim(-1, 1)
        (moved,) = torch.autograd.grad(out, probe, g.abs())
    return moved * layer.weight.detach().abs() / g[0, 0].numel()


def kernel_scores(layer: nn.Module, x: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """Σ over images of the mean over positions of |a_oi · g_o|, a_oi = w_oi ∗ x_i: `(out, in)`.

    The a_oi are held for a few input channels at a time, never all at once.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return weight_scores(layer, x, a, g)
    if layer.padding_mode != "zeros":
        raise ModelError(
            f"kernel scores of ActGrad need zero padding, not {layer.padding_mode!r}; "
            f"take granularity weight or unit"
        )
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    weight = layer.weight.detach()
    out_per_group, in_per_group = layer.out_channels // layer.groups, weight.shape[1]
    scores = torch.zeros(weight.shape[:2], dtype=a.dtype, device=a.device)
    step = max(1, _CHUNK // (out_per_group * g[:, 0].numel()))
    for group in range(layer.groups):
        rows = slice(group * out_per_group, (group + 1) * out_per_group)
        gradient = g[:, rows].unsqueeze(1)
        for first in range(0, in_per_group, step):
            columns = slice(first, min(first + step, in_per_group))
            kernels = weight[rows, columns].transpose(0, 1).flatten(0, 1).unsqueeze(1)
            count = columns.stop - columns.start
            start = group * in_per_group + first
            parts = convolve(
                x[:, start : start + count],
                kernels,
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
                count,
            )
            product = (parts.unflatten(1, (count, out_per_group)) * gradient).abs().flatten(3)
            scores[rows, columns] = product.mean(3).sum(0).T
    return scores


_RULES: dict[Granularity, Rule] = {
    "unit": unit_scores,
    "kernel": kernel_scores,
    "weight": weight_scores,
}


def activation_gradient_scores(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    mask: Mask,
    layers: dict[str, str],
    granularity: Granularity,
) -> dict[str, Tensor]:
    """Return the mean over images of |activation · gradient| of each element.

    `layers` maps layer names to weight names. Activations and gradients are those of the network
    masked by `mask`, read at each layer's output before the nonlinearity; a removed weight is
    scored with the value it would come back with. Gradients are taken image by image: batches are
    only chunks.
    """
    params = masked_parameters(model, mask)
    modules = dict(model.named_modules())
    totals: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    path = None
    seen = 0
    for x, y in batches:
        inputs, targets = x.to(device).requires_grad_(x.is_floating_point()), y.to(device)
        path = path or trace(model, inputs.detach())
        calls = [call for name in layers for call in path.of(name)]
        reads = [(Site(c.layer, "input", c.call), Site(c.layer, "pre", c.call)) for c in calls]
        with recording(model, [site for pair in reads for site in pair], path) as values:
            result = objective.values(model, inputs, targets, params=params).sum()
        reached = [(i, o) for i, o in reads if o in values]
        grads = torch.autograd.grad(result, [values[o] for _, o in reached], allow_unused=True)
        for (source, site), gradient in zip(reached, grads, strict=True):
            if gradient is None:
                continue
            scores = _RULES[granularity](
                modules[site.layer], values[source].detach(), values[site].detach(), gradient
            )
            name = layers[site.layer]
            totals[name] = totals[name] + scores if name in totals else scores
        seen += len(x)
    return {name: value / seen for name, value in totals.items()}


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
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        layers = {
            layer: names[id(module.weight)]
            for layer, module in model.named_modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
            and names[id(module.weight)] in candidates.shapes
        }
        found = activation_gradient_scores(
            model, objective, batches, mask, layers, candidates.granularity
        )
        own = dict(model.named_parameters())
        return Scores(
            {
                name: found.get(
                    name, torch.zeros(candidates.element_shape(name), device=own[name].device)
                )
                for name in candidates.shapes
            },
            candidates,
        )
