"""Small networks and data that plugins are tried on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from polykit.registry import Registry
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import generator, seeded
from polykit.types import Data, FeatureSpace, Subject

SHAPE = (1, 6, 6)
OUTPUTS = 4
FEATURES = 6
SAMPLES = 32


def networks() -> dict[str, nn.Module]:
    """Return new networks for inputs `[n, 1, 6, 6]`, in evaluation mode, the same each time.

    `mlp` and `convnet` are healthy; `dying` is an MLP with a dead unit and a dead layer.
    """
    with seeded(0, "polykit.testing"):
        found = {"mlp": _mlp(), "convnet": _convnet(), "dying": _mlp()}
    _kill(found["dying"].get_submodule("1"), slice(0, 1))
    _kill(found["dying"].get_submodule("3"), slice(None))
    return {name: model.eval() for name, model in found.items()}


def _kill(layer: nn.Module, units: slice) -> None:
    """Make units of a linear layer give −1 whatever comes in."""
    parameters = dict(layer.named_parameters())
    with torch.no_grad():
        parameters["weight"][units] = 0
        parameters["bias"][units] = -1


def _mlp() -> nn.Module:
    layers = [nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, OUTPUTS)]
    return nn.Sequential(nn.Flatten(), *layers)


def _convnet() -> nn.Module:
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(24, OUTPUTS))


def datasets() -> dict[str, Data]:
    """Return data for these networks: `classes` without known features, `truth` with them.

    Inputs are sums of six patterns; the first is a classification, the second a regression.
    """
    random = generator(0, "polykit.testing")
    patterns = torch.randn(FEATURES, *SHAPE, generator=random)
    drawn = torch.rand(3 * SAMPLES, FEATURES, generator=random)
    drawn = drawn * (torch.rand(drawn.shape, generator=random) < 0.5)
    space = FeatureSpace(
        "truth", FEATURES, lambda features: torch.einsum("nf,f...->n...", features, patterns)
    )
    inputs, labels = space.encode(drawn), drawn[:, :OUTPUTS].argmax(dim=1)
    labels[: 3 * OUTPUTS] = torch.arange(OUTPUTS).repeat_interleave(3)  # all, in every split
    return {
        "classes": _data(inputs, labels, None),
        "truth": _data(inputs, drawn[:, :OUTPUTS].clone(), space),
    }


def _data(x: Tensor, y: Tensor, features: FeatureSpace | None) -> Data:
    train, validation, test = (
        TensorSplit(x[part::3].contiguous(), y[part::3].contiguous()) for part in range(3)
    )
    task: Literal["classification", "regression"] = (
        "regression" if y.is_floating_point() else "classification"
    )
    return Data("sample", train, validation, test, task, SHAPE, OUTPUTS, features=features)


def subject(registry: Registry, model: nn.Module, data: Data, batch_size: int) -> Subject:
    """Put a network under the microscope, all its hidden layers in view."""
    device = torch.device("cpu")
    found = trace(model, torch.zeros(1, *data.input_shape))

    def spaces(name: str, network: Subject) -> FeatureSpace:
        if name == "auto":
            name = "classes" if data.features is None else "truth"
        space: FeatureSpace = registry.create("feature-space", name).instance.build(network)
        return space

    layers = select_layers(found)
    return Subject(model, found, layers, data, device, batch_size, spaces)
