"""From names to objects: networks to prune, and the layers of their interaction graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from polykit.api import Pruner
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.degeneracy.interaction_paths import check_follows
from polykit.runtime.degeneracy.slopes import INPUT
from polykit.types import Data
from polykit.workflows.analyze.setup import Cell, prepare
from polykit.workflows.analyze.setup import Setup as Networks
from polykit.workflows.basis.config import BasisConfig


@dataclass(frozen=True)
class Setup:
    """A resolved `BasisConfig`: the networks to train and prune, and the layers of the graph.

    `layers` are in order, the input and the outputs included.
    """

    config: BasisConfig
    networks: Networks
    layers: tuple[str, ...]

    @property
    def registry(self) -> Registry:
        """All plugins."""
        return self.networks.registry

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.networks.device

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.networks.threads

    @property
    def plugins(self) -> dict[str, Any]:
        """What the run keeps of its plugins."""
        return self.networks.plugins

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.networks.about

    @property
    def cells(self) -> list[Cell]:
        """One cell per seed, and one per seed × pruner × density."""
        return [*self.networks.dense_cells, *self.networks.pruned_cells]


def resolve(
    config: BasisConfig,
    registry: Registry,
    *,
    model: nn.Module | None = None,
    data: Data | None = None,
    pruners: Mapping[str, Pruner] | None = None,
) -> Setup:
    """Turn names into objects and check that they fit, before a run directory exists.

    `model`, `data` and `pruners` are a Python caller's own objects. Raises PolykitError with what
    does not fit and why, such as layers that do not follow from one another.
    """
    networks = prepare(config, registry, model=model, data=data, pruners=pruners)
    path = networks.trace
    inside = [layer for layer in networks.layers if layer != path.output_layer]
    layers = (*([INPUT] if config.inputs else []), *inside, path.output_layer)
    if len(layers) < 2:
        raise UsageError("a graph needs two layers; drop --no-inputs, or choose a deeper network")
    x, _ = next(networks.data.test.batches(1))
    probe = networks.network.build(networks.data, config.seeds[0], torch.device("cpu"))
    for before, behind in pairwise(layers):
        check_follows(probe, x, path, before, behind)
    return Setup(config, networks, layers)
