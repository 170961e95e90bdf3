"""A world: everything that a dataset with known features is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polykit_builtins.datasets.ground_truth.maps import Encoder, FeatureMaps, Maps


@dataclass(frozen=True)
class World:
    """Feature model, encoder and decoder, and the samples `[n, …]` drawn with them.

    `seeds` are the seed vectors whose labels `labels` are; None where labels are read out of the
    features exactly. `parts` are the indices of each split's samples.
    """

    feature_model: FeatureMaps
    encoder: Encoder
    decoder: Encoder
    sparsity: Tensor
    features: Tensor
    inputs: Tensor
    labels: Tensor
    seeds: Tensor | None
    parts: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, in float32 and int64; `files.world_from` reads it."""
        found = {
            "sparsity": self.sparsity,
            "features": self.features,
            "inputs": self.inputs,
            "labels": self.labels,
            **self.parts,
        }
        if self.seeds is not None:
            found["seeds"] = self.seeds
        networks: dict[str, Maps] = {
            "feature_model": self.feature_model,
            "encoder": self.encoder,
            "decoder": self.decoder,
        }
        for name, maps in networks.items():
            found[f"{name}.linear"] = torch.tensor([int(maps.straight)])
            for layer, (weight, bias) in enumerate(zip(maps.weights, maps.biases, strict=True)):
                found[f"{name}.{layer}.weight"], found[f"{name}.{layer}.bias"] = weight, bias
        return found
