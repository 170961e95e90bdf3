"""Pictures that raise a unit's value, and the pixels of given pictures that make it.

Feature visualisation borrows its image parametrisation, its random transformations and its
diversity objective from torch-lucent, and none of its hooks: the unit is read as everywhere else
in polykit, so nothing is left on the model, layers keep their dotted names, and what fails says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polykit.errors import DataError, ModelError
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.seeds import derive, seeded

Read = Callable[[nn.Module, Tensor], Tensor]
"""Reads the values `[n, units]` of a layer's units for inputs `[n, channels, height, width]`."""

Method = Literal["integrated-gradients", "saliency"]

STEP = 0.05
"""Adam's step, torch-lucent's default; in units of the scaled spectrum, so it fits every size."""

COLORS = 3
"""Channels of a picture in colour, whose correlations torch-lucent knows."""


@dataclass(frozen=True)
class Canvas:
    """The pictures a model takes: `shape` is (channels, height, width).

    `low` and `high`, `[channels, 1, 1]`, are the least and the largest value of each channel.
    """

    shape: tuple[int, int, int]
    low: Tensor
    high: Tensor

    def inputs(self, image: Tensor) -> Tensor:
        """Turn images in [0, 1], `[n, *shape]`, into the model's inputs."""
        return self.low + image * (self.high - self.low)


def canvas(inputs: Tensor) -> Canvas:
    """Return what the pictures `[n, channels, height, width]` of a model look like.

    The range is theirs, so whatever normalisation a dataset applies is in it. Raises DataError for
    inputs that are no pictures, or of one value only.

    >>> canvas(torch.tensor([[[[0.0, 2.0]]], [[[-1.0, 1.0]]]])).low.item()
    -1.0
    """
    if inputs.dim() != 4:
        shape = "×".join(map(str, inputs.shape[1:]))
        raise DataError(
            f"inputs of shape {shape} are no pictures (channels × height × width), so there is "
            f"nothing to show; choose a dataset of pictures and a convolutional model"
        )
    low, high = (inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3)))
    if not bool((high > low).any() and torch.isfinite(high - low).all()):
        raise DataError("the pictures all have the same value, so their range is not known")
    channels, height, width = inputs.shape[1:]
    return Canvas((channels, height, width), low[:, None, None], high[:, None, None])


@dataclass(frozen=True)
class Features:
    """Pictures that raise a unit: `inputs [n, channels, height, width]`, its value for each `[n]`.

    `start` is the mean value of the pictures they grew from, which are almost grey.
    """

    inputs: Tensor
    values: Tensor
    start: float


def feature_pictures(
    model: nn.Module,
    read: Read,
    unit: int,
    canvas: Canvas,
    *,
    spread: float,
    count: int = 4,
    steps: int = 256,
    diversity: float = 1.0,
    seed: int = 0,
) -> Features:
    """Grow `count` pictures that give unit number `unit` of what `read` reads a large value.

    The pictures maximise (unit's value) / `spread`, less `diversity` times the similarity of the
    whole layer's values between them, so that a unit of several features shows more than one of
    them. `spread` is the unit's standard deviation over real pictures. The similarity of a picture
    is the sum over the others of cos² between their vectors of all units' values: torch-lucent's
    diversity objective at a single position. Grey inputs, and those of two or of more than three
    channels, are grown without the correlation of colours.

    The same seed gives the same pictures; the generators of torch and NumPy are left as they were.
    Memory: the graph of one pass of `count` pictures. Source: Olah, Mordvintsev & Schubert 2017,
    Feature Visualization (Distill), sections Enemies of Feature Visualization and Diversity.

    Raises ModelError where no picture changes the unit's value, where it is not differentiable, or
    where a value is not finite.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3))
    >>> read = lambda model, x: model(x)[:, :, 3, 3]
    >>> inputs = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    >>> grown = feature_pictures(model, read, 0, canvas(inputs), spread=1.0, count=2, steps=64)
    >>> grown.inputs.shape, bool(grown.values.mean() > grown.start)
    (torch.Size([2, 1, 8, 8]), True)
    """
    from lucent.optvis import objectives, param

    if not spread > 0:
        raise ModelError("the unit has the same value for every picture, so none can raise it")
    channels, height, width = canvas.shape
    device = canvas.low.device
    # torch-lucent's objectives ask for a layer's maps by name; here it is always the same one
    loss = objectives.channel("layer", unit) * (1 / spread)
    loss = loss - objectives.diversity("layer") * diversity
    with evaluating(model), _random(seed, "features"), torch.enable_grad():
        parameters, image = param.image(
            width, height, batch=count, channels=None if channels == COLORS else channels
        )
        move = _moves(height, width)
        optimizer = torch.optim.Adam(parameters, lr=STEP)
        start = float(_values(model, read, canvas.inputs(image().detach().to(device)), unit).mean())
        moved = False
        for _ in range(steps):
            maps = read(model, canvas.inputs(move(image()).to(device)))[..., None, None]
            gradients = _gradients(loss(lambda _, maps=maps: maps), parameters)
            moved = moved or any(bool(gradient.any()) for gradient in gradients)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        if not moved:
            raise ModelError("nothing of the picture reaches the unit, so no picture can raise it")
        inputs = canvas.inputs(image().detach().to(device))
    return Features(inputs, _values(model, read, inputs, unit), start)


def _values(model: nn.Module, read: Read, inputs: Tensor, unit: int) -> Tensor:
    with torch.no_grad():
        values = read(model, inputs)[:, unit]
    if not bool(torch.isfinite(values).all()):
        raise ModelError("the unit's value is not finite; the model's weights may have diverged")
    return values


def _gradients(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient with respect to the picture alone, so that the model's stay as they are."""
    if not loss.requires_grad:
        raise ModelError("the unit's value is not differentiable with respect to the picture")
    try:
        gradients = torch.autograd.grad(loss, parameters)
    except RuntimeError as error:
        raise ModelError(f"the model cannot be differentiated: {error}") from error
    if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
        raise ModelError("the gradient of the unit is not finite, so it leads to no picture")
    return gradients


def _moves(height: int, width: int) -> Callable[[Tensor], Tensor]:
    """Move, turn and scale pictures a little, at random, without changing their size.

    torch-lucent's amounts for a picture of 128 pixels, in proportion, but at least a pixel; its
    jitter only goes down and right, so a random crop stands in for it.
    """
    from lucent.optvis import transform

    size = min(height, width)
    shift = max(1, size // 16)
    transformed = transform.compose(
        [
            transform.pad(2 * shift, mode="constant", constant_value=0.5),
            transform.random_scale([1 + (i - 5) / 50 for i in range(11)]),
            transform.random_rotate([*range(-10, 11), 0, 0, 0, 0, 0]),
        ]
    )

    def move(image: Tensor) -> Tensor:
        moved: Tensor = transformed(image)
        rows, columns = (int(n) for n in torch.randint(-shift, shift + 1, (2,)))
        top = (moved.shape[2] - height) // 2 + rows
        left = (moved.shape[3] - width) // 2 + columns
        return moved[:, :, top : top + height, left : left + width]

    return move


@contextmanager
def _random(seed: int, *names: object) -> Iterator[None]:
    """Seed torch and NumPy, which torch-lucent draws from; behind the block both are as before."""
    before = np.random.get_state()
    np.random.seed(derive(seed, *names) % 2**32)
    try:
        with seeded(seed, *names), warnings.catch_warnings():
            # the library below torch-lucent declares functions in ways that torch calls outdated
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(before)


@dataclass(frozen=True)
class Attributed:
    """What each pixel does for a unit's value: `pixels [n, height, width]`, the channels summed.

    `gap [n]` is by how much their sum misses the unit's value less its value for the baseline; None
    where the method does not promise that they agree.
    """

    pixels: Tensor
    gap: Tensor | None


def attribute_pixels(
    model: nn.Module,
    read: Read,
    unit: int,
    inputs: Tensor,
    *,
    method: Method = "integrated-gradients",
    steps: int = 32,
) -> Attributed:
    """Attribute unit number `unit` of what `read` reads to the pixels of `[n, c, h, w]` pictures.

    `integrated-gradients`: Captum's, from the input 0 (the mean colour where a dataset normalises,
    black where it does not), Gauss–Legendre with `steps` points; signed, and summing up to the
    unit's value less its value at 0 (Sundararajan et al. 2017, eq. 1). `saliency`: the largest
    |gradient| of a pixel's channels (Simonyan et al. 2014, section 3.1). Pictures go one by one: in
    memory is the graph of one pass of `steps` pictures.

    Raises ModelError where the unit's value is not differentiable.

    >>> model = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
    >>> read = lambda model, x: model(x)[:, :, 0, 0]
    >>> found = attribute_pixels(model, read, 0, torch.ones(1, 1, 3, 3))
    >>> bool(torch.allclose(found.pixels[0, :2, :2], model[0].weight[0, 0]))
    True
    """
    from captum.attr import IntegratedGradients, Saliency

    def value(x: Tensor) -> Tensor:
        return read(model, x)[:, unit]

    attribute: Any
    if method == "saliency":
        attribute = Saliency(value).attribute
    else:
        attribute = partial(IntegratedGradients(value).attribute, n_steps=steps)
    with evaluating(model):
        try:
            with torch.enable_grad():
                parts = [
                    attribute(part.requires_grad_()).detach()
                    for part in inputs.detach().clone().split(1)
                ]
        except RuntimeError as error:
            raise ModelError(f"the unit cannot be attributed to pixels: {error}") from error
        found = torch.cat(parts)
        if method == "saliency":
            return Attributed(found.amax(1), None)
        pixels = found.sum(1)
        zero = torch.zeros_like(inputs[:1])
        gained = [_values(model, read, part, unit) for part in inputs.split(steps)]
        expected = torch.cat(gained) - _values(model, read, zero, unit)
    return Attributed(pixels, pixels.sum((1, 2)) - expected)
