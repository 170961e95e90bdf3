"""Slopes in a chain of linear layers and ReLUs, in closed form.

∂y/∂p^l = ∂y/∂p^{l+1} W^{l+1} diag(r^l), with the firing pattern r and the values p before the
nonlinearity. The next layer's weights W̄ = (b, W) stand outside the mean over samples, M^l =
W̄ᵀ K^l W̄, so only slopes along p^{l+1} are gathered, which is the narrower side as a rule. Source:
Bushnaq et al. 2024, eq. 24 and 25.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from polykit.runtime.degeneracy.slope_rows import INPUT, Ones, Rows, double, with_one
from polykit.types import Trace

_SILENT = (nn.Flatten, nn.Dropout, nn.Identity)
"""Modules that leave the values of a flat input as they are, in evaluation."""


@dataclass(frozen=True)
class Link:
    """One linear layer of a chain: `weight [out, in]`, `bias [out]`, and whether a ReLU follows.

    The bias is 0 where the layer has none, and is not `biased`.
    """

    layer: str
    weight: Tensor
    bias: Tensor
    biased: bool
    relu: bool


def relu_chain(model: nn.Module, trace: Trace) -> tuple[Link, ...]:
    """Return the linear layers of a network that is a chain of them and ReLUs, else nothing.

    >>> from polykit.runtime.passes.trace import trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> [(link.layer, link.relu) for link in relu_chain(model, trace(model, torch.zeros(1, 2)))]
    [('0', True), ('2', False)]
    """
    links: list[Link] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if module._forward_hooks or module._forward_pre_hooks:
            return ()
        if type(module) is nn.Linear:
            weight, biased = double(module.weight), module.bias is not None
            bias = double(module.bias) if biased else weight.new_zeros(len(weight))
            links.append(Link(name, weight, bias, biased, relu=False))
        elif type(module) is nn.ReLU and links:
            links[-1] = replace(links[-1], relu=True)
        elif type(module) is not nn.Sequential and type(module) not in _SILENT:
            return ()
    calls = [call for call in trace.calls if call.kind == "linear"]
    flat = all(len(call.input_shape) == 1 for call in calls)
    once = [call.layer for call in calls] == [link.layer for link in links]
    return tuple(links) if flat and once else ()


def chain_rows(
    links: Sequence[Link], x: Tensor, layers: Sequence[str], ones: Ones, numbers: int
) -> Iterator[tuple[str, Rows]]:
    """Yield rows of `layers`, read behind the nonlinearity, for inputs `x [n, *shape]`, float64.

    Activations come first, and slopes when those are done with. Memory: all activations of the
    batch, and about `numbers` slopes at a time.
    """
    values, fires = _forward(links, x)
    places = {name: i for i, name in enumerate((INPUT, *(link.layer for link in links)))}
    wanted = {places[layer]: layer for layer in layers}
    width = len(links[-1].bias) * max(len(link.bias) + 1 for link in links)
    intos = {i: _into(links[i], ones) if i < len(links) else None for i in wanted}
    blank = {i: values[i].new_zeros(0, values[i].shape[1] + 1) for i in wanted}
    for i, into in intos.items():
        slopes = blank[i] if into is None else into.new_zeros(0, len(into))
        yield wanted[i], Rows(with_one(values[i]), slopes, into)
    del values
    for chunk in torch.arange(len(x)).split(max(1, numbers // width)):
        for i, slopes in _backward(links, [fire[chunk] for fire in fires], wanted, ones):
            stacked = slopes.flatten(0, 1)
            if len(slopes) < len(chunk):  # the same for every sample
                stacked = stacked * len(chunk) ** 0.5
            yield wanted[i], Rows(blank[i], stacked, intos[i])


def _forward(links: Sequence[Link], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the values of the input and behind each link, and which units of a link pass them."""
    values, fires = [x.flatten(1)], []
    for link in links:
        p = torch.addmm(link.bias, values[-1], link.weight.T)
        fire = (p > 0).to(p) if link.relu else p.new_ones(len(p), 1)
        values.append(p * fire if link.relu else p)
        fires.append(fire)
    return values, fires


def _into(link: Link, ones: Ones) -> Tensor:
    """The map from (1, f) to the next layer's p, or to (1, p) where the 1 is carried on."""
    into = torch.cat([link.bias[:, None], link.weight], dim=1)
    if ones == "exo":
        return into
    one = torch.zeros_like(into[:1])
    one[0, 0] = 1
    return torch.cat([one, into])


def _backward(
    links: Sequence[Link],
    fires: Sequence[Tensor],
    wanted: Sequence[int] | dict[int, str],
    ones: Ones,
) -> Iterator[tuple[int, Tensor]]:
    """Yield, last first, the number of a wanted place and its slopes `[n, outputs, e]`.

    Of the last place they are those of (1, f), of the others those of what `_into` maps it to. n
    is 1 where they are the same for all samples.
    """
    outputs = len(links[-1].bias)
    slopes = torch.eye(outputs, dtype=torch.float64, device=fires[0].device)[None]
    one = torch.zeros_like(slopes[..., :1])
    if len(links) in wanted:
        yield len(links), torch.cat([one, slopes], dim=2)
    for i in range(len(links) - 1, min(wanted) - 1, -1):
        if links[i].relu:
            slopes = _masked(slopes, fires[i][:, None])
        if i in wanted:
            carried = one.expand(len(slopes), -1, -1)
            yield i, slopes if ones == "exo" else torch.cat([carried, slopes], dim=2)
        if i > min(wanted):
            one = one + (slopes @ links[i].bias)[..., None]
            slopes = slopes @ links[i].weight


def _masked(slopes: Tensor, fire: Tensor) -> Tensor:
    """Let only slopes through that fire; in place once each sample has slopes of its own."""
    return slopes.mul_(fire) if len(slopes) == len(fire) else slopes * fire
