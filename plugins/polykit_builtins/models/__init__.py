"""Entries of the built-in models. Torch-free: classes are named, not imported."""

from __future__ import annotations

import re

from polykit.api import Entry, Kind, hookimpl

_HERE = "polykit_builtins.models"
_FACTORY = Entry(
    "model",
    "factory",
    f"{_HERE}.factory:Factory",
    "a network that your own function makes: package.module:function",
)


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "model",
            "mlp",
            f"{_HERE}.mlp:Mlp",
            "a multilayer perceptron of any widths",
            "Glorot & Bengio 2010; He et al. 2015 (initialisation)",
        ),
        _FACTORY,
    ]


@hookimpl
def polykit_resolve(kind: Kind, spec: str) -> Entry | None:
    """Answer torchvision's classification models by name, and `package.module:factory`."""
    if kind != "model":
        return None
    name = spec.partition(":")[0]
    from torchvision import models  # only here: listing plugins must not import torch

    if name in models.list_models(module=models):
        target = f"{_HERE}.torchvision_zoo:TorchvisionModel"
        return Entry("model", name, target, "a classification model of torchvision", "torchvision")
    return _FACTORY if re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", spec) else None
