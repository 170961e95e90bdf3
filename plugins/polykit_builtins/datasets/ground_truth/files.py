"""Worlds read from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from polykit.errors import DataError
from polykit.runtime.samples.splits import SPLITS, check_finite
from polykit_builtins.datasets.ground_truth.maps import Encoder, FeatureMaps
from polykit_builtins.datasets.ground_truth.world import World


def load_world(path: Path) -> World:
    """Read a world from safetensors; raise DataError where the file holds none."""
    try:
        return world_from(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; name a file with a saved world") from None
    except DataError as error:
        raise DataError(f"{path} holds no world of feature-model: {error}") from None


def world_from(tensors: Mapping[str, Tensor]) -> World:
    """Put a world together from `World.tensors()`; raise DataError where it is not in order."""
    pieces = _Pieces(tensors)
    world = World(
        FeatureMaps(*pieces.network("feature_model")),
        Encoder(*pieces.network("encoder")),
        Encoder(*pieces.network("decoder")),
        sparsity=pieces.take("sparsity"),
        features=pieces.take("features"),
        inputs=pieces.take("inputs"),
        labels=pieces.take("labels"),
        seeds=pieces.take("seeds") if "seeds" in pieces.rest else None,
        parts={name: pieces.take(name, torch.int64) for name in SPLITS},
    )
    if pieces.rest:
        raise DataError(f"{', '.join(map(repr, sorted(pieces.rest)))} do not belong there")
    _check(world)
    return world


class _Pieces:
    """Named tensors, each to be taken once."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.rest = dict(tensors)

    def take(self, name: str, kind: torch.dtype = torch.float32) -> Tensor:
        if name not in self.rest:
            raise DataError(f"{name!r} is missing")
        value = self.rest.pop(name)
        if value.dtype != kind:
            raise DataError(f"{name!r} is {value.dtype}, not {kind}")
        check_finite(value, repr(name))
        return value

    def network(self, name: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], bool]:
        """Take the weights, the biases and whether there is no ReLU."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        while f"{name}.{len(weights)}.weight" in self.rest or not weights:
            layer = f"{name}.{len(weights)}"
            weights.append(self.take(f"{layer}.weight"))
            biases.append(self.take(f"{layer}.bias"))
            if weights[-1].dim() != 2 or biases[-1].shape != weights[-1].shape[:1]:
                raise DataError(f"the shapes of {layer!r} are not those of a linear layer")
            if len(weights) > 1 and weights[-2].shape[0] != weights[-1].shape[1]:
                raise DataError(f"{layer!r} does not take what the layer before it gives")
        straight = self.take(f"{name}.linear", torch.int64)
        if straight.shape != (1,):
            raise DataError(f"'{name}.linear' is {tuple(straight.shape)}, not (1,)")
        return tuple(weights), tuple(biases), bool(straight)


def _check(world: World) -> None:
    """Raise DataError where the pieces do not fit each other."""
    maps, seeds = world.feature_model, world.seeds
    q, n = sum(maps.hidden), world.features.shape[0] if world.features.dim() else 0
    if len(maps.weights) < 2 or maps.sizes[0] != q:
        raise DataError(
            f"the feature model's sizes {maps.sizes} are not q, layers of q in all, out"
        )
    if world.encoder.sizes[0] != q or world.decoder.sizes != world.encoder.sizes[::-1]:
        raise DataError(f"encoder and decoder are not for {q} features")
    shapes = {
        "sparsity": (q,),
        "features": (n, q),
        "inputs": (n, world.encoder.sizes[-1]),
        "labels": (n, maps.sizes[-1]),
        **({} if seeds is None else {"seeds": (n, q)}),
    }
    for name, shape in shapes.items():
        if (found := tuple(getattr(world, name).shape)) != shape:
            raise DataError(f"{name!r} is {found}, not {shape}")
    order = torch.cat([part.flatten() for part in world.parts.values()])
    if not torch.equal(order.sort().values, torch.arange(n)):
        raise DataError(f"{', '.join(SPLITS)} do not share out the {n} samples")
    labels = maps.readout(world.features) if seeds is None else maps.labels(seeds)
    scale = 1.0 if seeds is None or not n else max(1.0, float(seeds.abs().max()))
    for name, expected in (("inputs", world.encoder(world.features)), ("labels", labels)):
        if not torch.allclose(getattr(world, name), expected, rtol=1e-3, atol=1e-3 * scale):
            raise DataError(f"{name!r} are not what the networks make of the features")
