"""Small convolutional networks for small pictures."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import Self

from pydantic import model_validator
from torch import nn

from polykit.api import Field, IntList, Model
from polykit_builtins.models.fitting import check_fit


class Convnet(Model):
    """Convolutions `conv1`, `conv2`, …, each with a ReLU, then one hidden layer and `output`.

    Convolutions keep the size of their map; a max-pool behind those named in `pools` halves it.
    Weights are drawn as PyTorch draws them, uniformly from ±√(1 / in).

    >>> print(Convnet(channels=(8, 16), pools=(2,), hidden=32).build((1, 8, 8), 10))
    Sequential(
      (conv1): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (relu1): ReLU()
      (conv2): Conv2d(8, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (relu2): ReLU()
      (pool2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (hidden): Linear(in_features=256, out_features=32, bias=True)
      (relu): ReLU()
      (output): Linear(in_features=32, out_features=10, bias=True)
    )
    """

    channels: IntList = Field((16, 32, 32), description="channels of each convolution, e.g. 16,32")
    kernel: int = Field(3, ge=1, description="side of the convolutions' kernels, an odd number")
    pools: IntList = Field((1, 2), description="convolutions with a max-pool of 2×2 behind them")
    hidden: int = Field(64, ge=0, description="neurons of the hidden layer; 0: no hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share dropped behind the hidden layer")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.channels or min(self.channels) < 1:
            raise ValueError("channels must name one positive number per convolution, e.g. 16,32")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} has no middle; take an odd number, e.g. 3")
        if unknown := sorted(set(self.pools) - set(range(1, len(self.channels) + 1))):
            raise ValueError(
                f"pools={','.join(map(str, unknown))}: there are convolutions 1 to "
                f"{len(self.channels)}"
            )
        if self.dropout and not self.hidden:
            raise ValueError("dropout acts on the hidden layer; give hidden a size, or leave it")
        return self

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for pictures `[n, channels, height, width]`; raise ModelError."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, *sides = input_shape
        for number, channels in enumerate(self.channels, start=1):
            layers[f"conv{number}"] = nn.Conv2d(
                inputs, channels, self.kernel, padding=self.kernel // 2
            )
            layers[f"relu{number}"] = nn.ReLU()
            if number in self.pools:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
                sides = [side // 2 for side in sides]
            inputs = channels
        layers["flatten"] = nn.Flatten()
        features = max(1, inputs * prod(sides))
        if self.hidden:
            layers["hidden"] = nn.Linear(features, self.hidden)
            layers["relu"] = nn.ReLU()
            if self.dropout:
                layers["dropout"] = nn.Dropout(self.dropout)
            features = self.hidden
        layers["output"] = nn.Linear(features, outputs)
        network, least = nn.Sequential(layers), 2 ** len(set(self.pools))
        check_fit(
            network,
            "convnet",
            input_shape,
            outputs,
            f"it needs pictures of at least {least}×{least} pixels: name fewer pools, or for other "
            f"inputs take mlp",
        )
        return network
