"""ActGrad: activation times gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from polykit.api import SaliencyPruner
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import masked_parameters
from polykit.types import Batches, Candidates, Granularity, Mask, Objective, Scores

_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_FUNCTIONS = ("linear", "conv1d", "conv2d", "conv3d")
_AXES: dict[Granularity, int | None] = {"unit": 1, "kernel": 2, "weight": None}


@dataclass(frozen=True)
class _Call:
    """One use of a weight: the function, what it took beside the weight, and what it gave."""

    weight: str
    function: Callable[..., Tensor]
    given: Mapping[str, Any]
    output: Tensor

    @property
    def input(self) -> Tensor:
        """What came in: `[n, inputs, *positions]`, the inputs last for a linear function."""
        return self.given["input"].detach()  # type: ignore[no-any-return]

    def again(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any) -> Tensor:
        """Apply the function to something else, units second."""
        given = {**self.given, "input": x, "weight": weight, "bias": bias, **more}
        return self.units_second(self.function(**given))

    def units_second(self, out: Tensor) -> Tensor:
        """Bring an output, or a gradient at one, into the order `[n, units, *positions]`."""
        return out.movedim(-1, 1) if self.function is F.linear else out


class _Calls(TorchFunctionMode):
    """Records what uses one of the weights, wherever it is called from.

    The pass goes on with a copy of each output, so that nothing overwrites what is recorded.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in weights.items()}
        self.calls: list[_Call] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in _FUNCTIONS:
            return result
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}
        name = self._names.get(id(given["weight"]))
        if name is None:
            return result
        self.calls.append(_Call(name, func, given, result))
        return result.clone()


Rule = Callable[[_Call, Tensor, Tensor | None, Tensor], Tensor]
"""A call, the weight and bias, and the gradient `[n, units, *positions]` → sums over the map."""


def unit_scores(call: _Call, weight: Tensor, bias: Tensor | None, g: Tensor) -> Tensor:
    """Σ over images and positions of |a · g|: `(units,)`."""
    product = (call.again(call.input, weight, bias) * g).abs()
    return product.transpose(0, 1).flatten(1).sum(1)


def weight_scores(call: _Call, weight: Tensor, bias: Tensor | None, g: Tensor) -> Tensor:
    """Σ over images and positions of |w · x · g| for each single weight.

    Since |w x g| = |w| |x| |g|, this is the layer's own weight gradient on absolute values.
    """
    probe = torch.zeros_like(weight, requires_grad=True)
    with torch.enable_grad():
        out = call.again(call.input.abs(), probe)
        (moved,) = torch.autograd.grad(out, probe, g.abs())
    return moved * weight.abs()


def kernel_scores(call: _Call, weight: Tensor, bias: Tensor | None, g: Tensor) -> Tensor:
    """Σ over images and positions of |a_oi · g_o|, a_oi = w_oi ∗ x_i: `(out, in)`.

    The a_oi are held for one input channel (of each group) at a time, never all at once.
    """
    if call.function is F.linear:
        return weight_scores(call, weight, bias, g)
    inputs = weight.shape[1]
    scores = weight.new_zeros(weight.shape[:2])
    for i in range(inputs):
        part = call.again(call.input[:, i::inputs], weight[:, i : i + 1])
        scores[:, i] = part.mul_(g).abs_().flatten(2).sum((0, 2))
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
    names: Sequence[str],
    granularity: Granularity,
) -> dict[str, Tensor]:
    """Return the mean over images and positions of |activation · gradient|: name → element shape.

    Inputs and gradients are those of the network masked by `mask`, read at each layer's output
    before the nonlinearity; a removed element is scored with the values it would come back with.
    Positions are those of the layer's whole map, so an objective that computes only a part of it
    scores the same: elsewhere the gradient is 0. Gradients are taken image by image: batches are
    only chunks. A layer called twice, or two that share a weight, add up.
    """
    own = dict(model.named_parameters())
    params = {
        name: value.requires_grad_() for name, value in masked_parameters(model, mask).items()
    }
    dense = {id(value): own[name].detach() for name, value in params.items()}
    total = {name: own[name].new_zeros(own[name].shape[: _AXES[granularity]]) for name in names}
    device = own[names[0]].device
    places: dict[str, list[int]] = {}
    seen = 0
    for x, y in batches:
        places = places or _positions(model, x.to(device))
        with _Calls({name: params[name] for name in names}) as record, torch.enable_grad():
            value = objective.values(model, x.to(device), y.to(device), params=params).sum()
        gradients = torch.autograd.grad(
            value, [call.output for call in record.calls], materialize_grads=True
        )
        counts = {name: iter(found) for name, found in places.items()}
        for call, gradient in zip(record.calls, gradients, strict=True):
            bias = call.given.get("bias")
            with torch.no_grad():
                weight, bias = dense[id(params[call.weight])], dense.get(id(bias), bias)
                scores = _RULES[granularity](call, weight, bias, call.units_second(gradient))
                total[call.weight] += scores / next(counts[call.weight])
        seen += len(x)
    return {name: value / seen for name, value in total.items()}


def _positions(model: nn.Module, x: Tensor) -> dict[str, list[int]]:
    """Return the size of the map of each use of a weight in one pass, in order."""
    modules = dict(model.named_modules())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[int]] = {}
    for call in trace(model, x).calls:
        if call.kind != "other":
            name = names.get(id(modules[call.layer].weight), "")
            found.setdefault(name, []).append(call.positions)
    return found


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
