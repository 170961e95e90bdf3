"""Train a tiny autoencoder: by hand in NumPy, ten times as fast as autograd at this size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polykit_builtins.datasets.ground_truth.adam import Adam

Array = NDArray[np.float32]


@torch.no_grad()
def train_autoencoder(
    x: Tensor,
    sizes: Sequence[int],
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    linear: bool = False,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Train on `x [n, sizes[0]]` (float32); return the weights `[out, in]` and biases `[out]`.

    The first half of them is the encoder, which maps through `sizes`, the second the decoder, which
    maps back; ReLU after each layer but the two halves' last, or nowhere if `linear`. Mean squared
    error, Adam, new batches each epoch. Starts as torch's linear layers do; random numbers come
    from torch's global generator.
    """
    path = [*sizes, *reversed(sizes[:-1])]
    layers = [nn.Linear(a, b) for a, b in pairwise(path)]
    shapes = [tuple(p.shape[::-1]) for layer in layers for p in (layer.weight, layer.bias)]
    flat = torch.cat([p.flatten() for layer in layers for p in (layer.weight.T, layer.bias)])
    gradient = torch.zeros_like(flat)
    parameters, gradients = (_views(values.numpy(), shapes) for values in (flat, gradient))
    straight = range(len(layers)) if linear else (len(layers) // 2 - 1, len(layers) - 1)
    adam, inputs = Adam(flat, lr), x.numpy()
    for _ in range(epochs):
        shuffled = inputs[torch.randperm(len(inputs)).numpy()]
        for start in range(0, len(inputs), batch_size):
            _backward(shuffled[start : start + batch_size], parameters, gradients, straight)
            adam.step(gradient)
    weights = tuple(torch.from_numpy(weight.T.copy()) for weight in parameters[::2])
    return weights, tuple(torch.from_numpy(bias.copy()) for bias in parameters[1::2])


def _views(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Weights `[in, out]` and biases in turn, as views of one vector, all of it Adam's."""
    ends = np.cumsum([prod(shape) for shape in shapes])
    parts = np.split(flat, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _backward(
    x: Array, parameters: Sequence[Array], gradients: Sequence[Array], straight: Sequence[int]
) -> None:
    """Write the gradient of the mean squared reconstruction error into `gradients`.

    `straight` are the layers without ReLU.
    """
    count = len(parameters) // 2
    values = [x]
    for layer in range(count):
        h = values[-1] @ parameters[2 * layer]
        h += parameters[2 * layer + 1]
        values.append(h if layer in straight else np.maximum(h, 0, out=h))
    delta = values[-1] - x
    delta *= np.float32(2 / x.size)
    for layer in reversed(range(count)):
        if layer not in straight:
            delta *= values[layer + 1] > 0
        np.matmul(values[layer].T, delta, out=gradients[2 * layer])
        np.add.reduce(delta, 0, out=gradients[2 * layer + 1])
        if layer:
            delta = delta @ parameters[2 * layer].T
