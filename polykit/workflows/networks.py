"""The network and the data of a sweep: from names to objects that can be made anew."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from polykit.api import Model
from polykit.entries import Chosen
from polykit.registry import Registry
from polykit.runtime.seeds import seeded
from polykit.runtime.training.checkpoints import load_weights
from polykit.types import Data
from polykit.workflows.plugins import build_model, create, load_data


@dataclass(frozen=True)
class Network:
    """How to make a sweep's network: by a model plugin, or by copying a caller's own module.

    `checkpoint` names weights to load into what the plugin builds. `record` is what the run keeps.
    """

    made_by: Chosen | nn.Module
    checkpoint: Path | None
    record: dict[str, Any]

    @property
    def trained(self) -> bool:
        """Whether the network comes with weights that are worth measuring."""
        if isinstance(self.made_by, nn.Module) or self.checkpoint is not None:
            return True
        return bool(self.made_by.instance.pretrained)

    def build(self, data: Data, seed: int, device: torch.device) -> nn.Module:
        """Make the network anew, as it is before any training here.

        Raises ModelError where the plugin or the checkpoint does not fit.
        """
        if isinstance(self.made_by, nn.Module):
            model = copy.deepcopy(self.made_by)
        else:
            with seeded(seed, "init"):
                model = build_model(self.made_by, data)
        if self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        return model.to(device)

    def redrawn(self, model: nn.Module, seed: int) -> nn.Module:
        """Return a copy of a network with random weights, in evaluation mode.

        Raises ModelError where weights cannot be drawn anew.
        """
        fresh = copy.deepcopy(model)
        with seeded(seed, "fresh"):
            if isinstance(self.made_by, nn.Module):
                Model.redraw(cast(Model, None), fresh)  # the default asks nothing of a plugin
            else:
                self.made_by.instance.redraw(fresh)
        return fresh.eval()


def find_network(
    spec: str,
    checkpoint: str | None,
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
    own: nn.Module | None = None,
) -> Network:
    """Find the model plugin called `spec`, or take a caller's `own` module, of that name."""
    place = None if checkpoint is None else Path(checkpoint)
    if own is not None:
        return Network(own, place, {"name": spec, "distribution": "", "weights": digest(own)})
    chosen = create("model", spec, registry, options)
    return Network(chosen, place, chosen.record)


def find_data(
    spec: str,
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
    own: Data | None = None,
    load: Callable[[Chosen], Data] = load_data,
) -> tuple[Data, dict[str, Any]]:
    """Load the dataset called `spec`, or take a caller's `own` data; and what the run keeps."""
    if own is not None:
        return own, {"name": own.name, "distribution": ""}
    chosen = create("dataset", spec, registry, options)
    return load(chosen), chosen.record


def digest(model: nn.Module) -> str:
    """A fingerprint of a caller's own network, to tell whether a resumed run has the same."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
