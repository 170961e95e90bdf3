"""A small regression problem whose features are known, with labels that are exact functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from polykit.api import Dataset, Field, IntList
from polykit.runtime.data import as_data
from polykit.runtime.seeds import seeded
from polykit.types import Data, FeatureSpace
from polykit_builtins.datasets.autoencoder import train_autoencoder

THRESHOLD = 0.05
"""Weights of the feature model below it are zero."""


class Toy(Dataset):
    """Ground truth by construction: q sparse features, inputs encoded from them, exact labels.

    Feature j is 0 with probability s_j, else U(0, 1); s_j ~ U(sparsity_low, sparsity_high). The
    feature model's hidden layers hold the features, q in all. With f_l the features of layer l,
    h_1 = f_1, h_l = f_l + ReLU(W_l h_{l−1} + b_l), label y = W_out h_L + b_out: each label is an
    exact function of the drawn features (the published seed search misses its targets, so that
    labels are barely learnable). Weights U(−1, 1), set to zero below 0.05, at least two inputs per
    neuron kept; b = 0.5 − W·0.5. The input is x = encoder(f): q → ⌊q/2⌋ → inputs with ReLU
    between, trained as an autoencoder with the mirrored decoder (MSE, Adam 1e-3, batches of 32).
    50·q·outputs samples, split 70 / 15 / 15. Gives the feature space `truth`.

    Source: Plettscher, §3.2, scenario N1 by default, with exact labels.
    """

    hidden: IntList = Field((12, 4), description="features in each layer of the feature model")
    inputs: int = Field(5, ge=1, description="size of the input the features are encoded in")
    outputs: int = Field(2, ge=1, description="number of labels of each sample")
    sparsity_low: float = Field(0.65, ge=0, lt=1, description="least probability of a zero")
    sparsity_high: float = Field(0.75, ge=0, lt=1, description="greatest probability of a zero")
    epochs: int = Field(100, ge=1, description="training epochs of the encoder")
    seed: int = Field(0, ge=0, description="seed of everything that is drawn")

    @field_validator("hidden")
    @classmethod
    def _at_least_two(cls, hidden: tuple[int, ...]) -> tuple[int, ...]:
        if not hidden or min(hidden) < 2:
            raise ValueError("every layer needs two features or more, e.g. 12,4")
        return hidden

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sparsity_low > self.sparsity_high:
            raise ValueError("sparsity_low is above sparsity_high")
        return self

    def load(self) -> Data:
        """Draw the features, train the encoder, compute the labels."""
        features, model, encoder = self.draw()
        data = as_data(
            (encoder(features), model.labels(features)),
            name="toy",
            task="regression",
            seed=self.seed,
        )
        q = sum(self.hidden)
        names = tuple(f"feature {j}" for j in range(q))
        return replace(data, features=FeatureSpace("truth", q, encoder, names))

    def draw(self) -> tuple[Tensor, FeatureModel, Encoder]:
        """Return the drawn features `[n, q]`, the feature model and the trained encoder."""
        q = sum(self.hidden)
        with seeded(self.seed, "toy"):
            model = draw_feature_model(self.hidden, self.outputs)
            sparsity = torch.empty(q).uniform_(self.sparsity_low, self.sparsity_high)
            features = draw_features(50 * q * self.outputs, sparsity)
            sizes = (q, q // 2, self.inputs)
            encoder = Encoder(*train_autoencoder(features, sizes, epochs=self.epochs))
        return features, model, encoder


@dataclass(frozen=True)
class FeatureModel:
    """Weights `[out, in]` and biases `[out]` of the maps between the layers, the label's last."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def labels(self, features: Tensor) -> Tensor:
        """Compute the labels `[n, outputs]` of feature vectors `[n, q]`."""
        first, *later = torch.split(features, [weight.shape[1] for weight in self.weights], dim=1)
        h = first
        for part, weight, bias in zip(later, self.weights, self.biases, strict=False):
            h = part + torch.relu(nn.functional.linear(h, weight, bias))
        return nn.functional.linear(h, self.weights[-1], self.biases[-1])


@dataclass(frozen=True)
class Encoder:
    """Maps features `[n, q]` to inputs `[n, inputs]`: linear maps with ReLU between.

    Works on the device and in the float type of what it is given.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    def __call__(self, features: Tensor) -> Tensor:
        """Encode feature vectors, row by row."""
        x = features
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = nn.functional.linear(torch.relu(x) if layer else x, weight.to(x), bias.to(x))
        return x


def draw_feature_model(hidden: Sequence[int], outputs: int) -> FeatureModel:
    """Draw the maps between the feature layers, and from the last one to the labels."""
    sizes = [*hidden, outputs]
    weights = tuple(draw_weight(b, a) for a, b in pairwise(sizes))
    return FeatureModel(weights, tuple(0.5 - weight.sum(1) / 2 for weight in weights))


def draw_weight(rows: int, columns: int) -> Tensor:
    """Draw U(−1, 1) weights, zero below the threshold; rows with under two left are redrawn."""
    weight = torch.empty(rows, columns).uniform_(-1, 1)
    while bool((short := (weight.abs() >= THRESHOLD).sum(1) < 2).any()):
        weight[short] = torch.empty(int(short.sum()), columns).uniform_(-1, 1)
    return weight.masked_fill(weight.abs() < THRESHOLD, 0)


def draw_features(n: int, sparsity: Tensor) -> Tensor:
    """Draw `[n, q]` feature values: 0 with probability `sparsity[j]`, else U(0, 1)."""
    active = torch.rand(n, len(sparsity)) >= sparsity
    return torch.rand(n, len(sparsity)) * active
