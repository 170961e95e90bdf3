"""Random chains of convolutions, pools and pointwise modules, with a picture that fits them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from polykit.runtime.seeds import seeded
from polykit.types import LayerCall

CHANNELS = 2
POINTWISE = [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Identity, nn.Dropout]


@st.composite
def chains(draw: Any, *, positive: bool = False) -> nn.Module:
    """Draw a chain in float64 that ends in a convolution, in evaluation mode.

    `positive` makes all weights positive and convolutions averages, so that gradients stay.
    """
    axes = draw(st.sampled_from((1, 2, 2)))
    size = tuple(draw(st.integers(10, 24)) for _ in range(axes))
    modules: list[nn.Module] = []
    x = torch.zeros(1, CHANNELS, *size, dtype=torch.float64)
    with seeded(draw(st.integers(0, 99)), "chain"):
        for _ in range(draw(st.integers(1, 5))):
            module = draw(st.sampled_from((_pool, _convolution, _pool, _pointwise, _adaptive)))(
                draw, tuple(x.shape[2:])
            )
            module = module.double().eval()
            try:
                given = module(x)
            except (RuntimeError, ValueError):
                continue  # the map is too small for it
            if given.numel():
                modules.append(module)
                x = given
        modules.append(_convolution(draw, tuple(x.shape[2:]), one=True).double())
        _draw_weights(modules, positive)
    model = nn.Sequential(*modules).eval()
    model.size = size  # type: ignore[assignment]
    return model


def picture_of(model: nn.Module) -> Tensor:
    """A random picture of the size that a drawn chain takes."""
    size: Any = model.size
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, CHANNELS, *size, dtype=torch.float64, generator=generator)


def positions(call: LayerCall) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a position of the map, often its centre."""
    anywhere = st.tuples(*(st.integers(0, size - 1) for size in call.shape[1:]))
    return st.just(tuple(size // 2 for size in call.shape[1:])) | anywhere


def _each(draw: Any, low: int, high: int, axes: int) -> Any:
    return tuple(draw(st.integers(low, high)) for _ in range(axes))


def _convolution(draw: Any, size: tuple[int, ...], *, one: bool = False) -> nn.Module:
    axes = len(size)
    kind: Any = (nn.Conv1d, nn.Conv2d)[axes - 1]
    if one:
        return kind(CHANNELS, CHANNELS, 1)  # type: ignore[no-any-return]
    stride = _each(draw, 1, 3, axes)
    same = all(s == 1 for s in stride) and draw(st.booleans())
    return kind(  # type: ignore[no-any-return]
        CHANNELS,
        CHANNELS,
        _each(draw, 1, 4, axes),
        stride=stride,
        padding="same" if same else _each(draw, 0, 3, axes),
        dilation=_each(draw, 1, 2, axes),
        groups=draw(st.sampled_from((1, CHANNELS))),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(("zeros", "zeros", "replicate"))),
    )


def _pool(draw: Any, size: tuple[int, ...]) -> nn.Module:
    axes = len(size)
    kernel = _each(draw, 1, 3, axes)
    options: dict[str, Any] = {
        "stride": _each(draw, 1, 3, axes),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if draw(st.booleans()):
        kind: Any = (nn.MaxPool1d, nn.MaxPool2d)[axes - 1]
        return kind(kernel, **options, dilation=_each(draw, 1, 2, axes))  # type: ignore[no-any-return]
    kind = (nn.AvgPool1d, nn.AvgPool2d)[axes - 1]
    if axes == 2:
        options["divisor_override"] = draw(st.sampled_from((3, None)))
    return kind(kernel, **options, count_include_pad=draw(st.booleans()))  # type: ignore[no-any-return]


def _adaptive(draw: Any, size: tuple[int, ...]) -> nn.Module:
    divisors = [[d for d in range(2, n + 1) if n % d == 0] or [n] for n in size]
    target = tuple(draw(st.sampled_from(options)) for options in divisors)
    kinds: Any = (
        (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
        (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    )[len(size) - 1]
    return draw(st.sampled_from(kinds))(target if len(size) > 1 else target[0])  # type: ignore[no-any-return]


def _pointwise(draw: Any, size: tuple[int, ...]) -> nn.Module:
    if draw(st.booleans()):
        return draw(st.sampled_from(POINTWISE))()  # type: ignore[no-any-return]
    kind: Any = (nn.BatchNorm1d, nn.BatchNorm2d)[len(size) - 1]
    return kind(CHANNELS)  # type: ignore[no-any-return]


def _draw_weights(modules: list[nn.Module], positive: bool) -> None:
    with torch.no_grad():
        for module in modules:
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                if positive:
                    module.weight.copy_(torch.rand_like(module.weight) + 0.1)
                    module.weight /= (
                        module.weight.flatten(1).sum(1).view(-1, *[1] * (module.weight.dim() - 1))
                    )
                if positive and module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not positive:
                module.running_mean.copy_(torch.randn(CHANNELS))  # type: ignore[union-attr]
                module.running_var.copy_(torch.rand(CHANNELS) + 0.5)  # type: ignore[union-attr]
