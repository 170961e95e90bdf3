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
        Entry(
            "model",
            "convnet",
            f"{_HERE}.convnet:Convnet",
            "a small convolutional network for digits, MNIST, CIFAR-10 and the like",
        ),
        Entry(
            "model",
            "lenet",
            f"{_HERE}.lenet:Lenet",
            "a perceptron of 300 and 100 hidden units",
            "LeCun et al. 1998; Schoots et al., Propensity for density, §3.1",
        ),
        Entry(
            "model",
            "conv2",
            f"{_HERE}.conv2:Conv2",
            "two convolutions of 64 filters, two linear layers of 256",
            "Frankle & Carbin 2019, Fig. 2; Schoots et al., Propensity for density, §3.1",
        ),
        Entry(
            "model",
            "resnet",
            f"{_HERE}.resnet:Resnet",
            "three residual blocks of 16 filters",
            "He et al. 2016; Schoots et al., Propensity for density, §3.1",
        ),
        Entry(
            "model",
            "toy-superposition-net",
            f"{_HERE}.toy_superposition:ToySuperposition",
            "one hidden layer, no output bias: for the dataset toy-superposition",
            "Jermyn et al. 2022, Engineering monosemanticity in toy models, arXiv:2211.09169, §3",
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
