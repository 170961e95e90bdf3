"""The toy data of superposition: more features than inputs, each rare, to be read out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from polykit.api import Dataset, Field
from polykit.runtime.samples.splits import SPLITS, TensorSplit
from polykit.runtime.seeds import generator
from polykit.types import Data, Fact, FeatureSpace
from polykit_builtins.features.affine import Affine

HELD_OUT = 8
"""How many times as many samples training has as validation and test have."""


class ToySuperposition(Dataset):
    """Inputs x = E v of N sparse features v, which are the targets.

    Feature i is 0 with probability 1 − p_i, else U(0, 1). E is m×N, with columns of length 1, the
    same for all samples: the rows of a random orthonormal frame, its columns scaled to length 1.
    p_i is `frequency`, or falls as i^(−power) with that mean (1.1 in the paper), at most 1. The
    published code draws new samples at every step; here training has a fixed set, by default as
    many as 128 batches of 512. Losses are means over the N outputs: the paper's are sums, N times
    as large. Gives the feature space `truth`, whose encoder is E. Source: Jermyn et al. 2022,
    Engineering monosemanticity in toy models, arXiv:2211.09169, §3.

    >>> data = ToySuperposition(features=8, inputs=4, samples=64).load()
    >>> data.input_shape, data.outputs, data.features.n_features, len(data.test)
    ((4,), 8, 8, 8)
    """

    features: int = Field(64, ge=1, description="number of features N")
    inputs: int = Field(16, ge=1, description="inputs m that the features are embedded in")
    frequency: float = Field(1 / 32, gt=0, le=1, description="mean probability of a feature")
    power: float = Field(
        0.0, ge=0, le=10, description="exponent by which frequencies fall with the rank; 0: alike"
    )
    samples: int = Field(65_536, ge=8, description="training samples; an eighth to validate, test")
    seed: int = Field(0, ge=0, description="seed of embedding and samples")

    @model_validator(mode="after")
    def _more_features(self) -> Self:
        if self.features < self.inputs:
            raise ValueError(
                f"{self.features} features need no {self.inputs} inputs; take more features, or "
                f"inputs={self.features} at most"
            )
        return self

    def load(self) -> Data:
        """Draw the embedding and the samples."""
        embedding, frequencies = self.embedding(), self.frequencies()
        sizes = (self.samples, self.samples // HELD_OUT, self.samples // HELD_OUT)
        train, validation, test = (
            self._draw(name, size, embedding, frequencies)
            for name, size in zip(SPLITS, sizes, strict=True)
        )
        names = tuple(f"feature {i}" for i in range(self.features))
        encode = Affine(torch.zeros(self.inputs), embedding.T.contiguous())
        return Data(
            "toy-superposition",
            train,
            validation,
            test,
            "regression",
            (self.inputs,),
            self.features,
            features=FeatureSpace("truth", self.features, encode, names),
            truth={"embedding": embedding, "frequencies": frequencies},
            card=Card(frequencies),
        )

    def embedding(self) -> Tensor:
        """Return E `[m, N]`, columns of length 1."""
        random = generator(self.seed, "toy-superposition", "embedding")
        frame = torch.linalg.qr(torch.randn(self.features, self.inputs, generator=random)).Q
        columns: Tensor = (frame / frame.norm(dim=1, keepdim=True)).T
        return columns.contiguous()

    def frequencies(self) -> Tensor:
        """Return each feature's probability p `[N]`."""
        shares = torch.arange(1, self.features + 1, dtype=torch.double) ** -self.power
        mean = self.frequency * self.features
        return (shares * mean / shares.sum()).clamp(max=1).float()

    def _draw(self, name: str, count: int, embedding: Tensor, frequencies: Tensor) -> TensorSplit:
        random = generator(self.seed, "toy-superposition", name)
        shape = count, self.features
        there = torch.rand(shape, generator=random) < frequencies
        v = torch.rand(shape, generator=random) * there
        return TensorSplit(v @ embedding.T, v)


@dataclass(frozen=True)
class Card:
    """What a reader should know of the data."""

    frequencies: Tensor

    def __call__(self) -> tuple[Fact, ...]:
        """Return how many features are active, and what it costs to predict nothing."""
        p = self.frequencies.double()
        return (
            Fact(
                "active_features", float(p.sum()), "features active in a sample, mean", "features"
            ),
            Fact("silent_loss", float(p.mean()) / 3, "loss of predicting no feature at all"),
        )
