"""All classification models of torchvision, by name."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import nn
from torchvision import models

from polykit.api import Field, Model
from polykit.errors import ModelError, did_you_mean
from polykit_builtins.models.fitting import check_fit


class TorchvisionModel(Model):
    """A network of torchvision, untrained or with one of its published sets of weights.

    Weights are downloaded on first use and expect ImageNet's mean and std, as `imagefolder` gives
    them. They know ImageNet's 1,000 classes: for others, `head=new` puts an untrained last layer
    in place, and the network then no longer counts as trained. The auxiliary outputs of
    `googlenet` and `inception_v3` are left out. Raises ModelError where the data does not fit.
    """

    argument: ClassVar[str] = "architecture"

    architecture: str = Field("resnet18", description="name of the model in torchvision.models")
    weights: str | None = Field(
        None, description="published weights, e.g. DEFAULT or IMAGENET1K_V1; none: untrained"
    )
    head: Literal["keep", "new"] = Field(
        "keep", description="with weights: keep their classes, or put in a new last layer"
    )

    @model_validator(mode="after")
    def _exists(self) -> Self:
        known = models.list_models(module=models)
        if self.architecture not in known:
            raise ValueError(
                f"torchvision has no classification model {self.architecture!r}."
                f"{did_you_mean(self.architecture, known)}"
            )
        if self.weights is not None and self.weights not in (names := self._published()):
            raise ValueError(
                f"{self.architecture} has no weights {self.weights!r}; it has {', '.join(names)}"
            )
        return self

    @property
    def pretrained(self) -> bool:
        """Whether all layers, the last one too, come trained."""
        return self.weights is not None and self.head == "keep"

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for pictures `[n, 3, height, width]`."""
        model = self._untrained(outputs) if self.weights is None else self._trained(outputs)
        side, _ = models.get_model_weights(self.architecture).DEFAULT.meta["min_size"]
        check_fit(
            model,
            self.architecture,
            input_shape,
            outputs,
            f"it needs pictures of 3 channels and at least {side}×{side} pixels: use "
            f"imagefolder:PATH (options size, crop), or a model for any shape, such as mlp",
        )
        return model

    def _published(self) -> list[str]:
        """Names of the weight sets that hold a whole network."""
        published = models.get_model_weights(self.architecture).__members__
        return [name for name, weights in published.items() if weights.meta["categories"]]

    def _untrained(self, outputs: int) -> nn.Module:
        # without init_weights these two warn, and with aux_logits they give three outputs
        extra: dict[str, Any] = (
            {"aux_logits": False, "init_weights": True}
            if self.architecture in ("googlenet", "inception_v3")
            else {}
        )
        network: nn.Module = models.get_model(self.architecture, num_classes=outputs, **extra)
        return network

    def _trained(self, outputs: int) -> nn.Module:
        weights = models.get_model_weights(self.architecture)[self.weights]
        known = len(weights.meta["categories"])
        if self.head == "keep" and outputs != known:
            raise ModelError(
                f"the weights {self.weights} of {self.architecture} know {known} classes, the "
                f"data has {outputs}; add head=new for an untrained last layer, or leave the "
                f"weights out"
            )
        extra = {"aux_logits": False} if self.architecture == "inception_v3" else {}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # torch.hub reports downloads on stdout
                network: nn.Module = models.get_model(self.architecture, weights=weights, **extra)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"cannot load the weights {self.weights} of {self.architecture} ({error}); go "
                f"online, put the file from {weights.url} into {torch.hub.get_dir()}/checkpoints, "
                f"or leave the weights out"
            ) from error
        if self.head == "new":
            replace_head(network, known, outputs)
        return network


def replace_head(model: nn.Module, known: int, outputs: int) -> None:
    """Replace the last linear or 1×1 convolution layer with `known` outputs by a new one."""
    for name, module in reversed(list(model.named_modules())):
        new: nn.Module
        if isinstance(module, nn.Linear) and module.out_features == known:
            new = nn.Linear(module.in_features, outputs, bias=module.bias is not None)
        elif isinstance(module, nn.Conv2d) and module.out_channels == known:
            new = nn.Conv2d(module.in_channels, outputs, kernel_size=1)
        else:
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
        return
    raise ModelError(f"{type(model).__name__} has no last layer of {known} outputs to replace")
