"""A small residual network."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from polykit.api import Field, Model
from polykit_builtins.models.fitting import check_fit
from polykit_builtins.models.initial import Init, cut_width, draw_all


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm; what goes in is added before the last ReLU."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, filters, height, width]` to the same shape."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


class Resnet(Model):
    """A convolution, three residual blocks of two, all of 16 filters; average pool; the output.

    Batch norm and ReLU follow each 3×3 convolution; nothing is downsampled before the pool over
    the whole map. With `scale` s there are f = ⌊16 s⌋ filters, and on RGB pictures with 10 classes
    27·f + 54·f² + 10·f weights: 14,416 at scale 1. Source: Schoots et al., Propensity for density,
    §3.1. Their Table 1 counts 443,122 and grows with f, not f²: 9·1024·3·f + 4·f + 10·⌊64 s⌋ + 50
    gives all four numbers, that is the first layer with unshared kernels, and no block at all.

    Raises ModelError for inputs that are no pictures.

    >>> network = Resnet(scale=0.5).build((3, 32, 32), 10)
    >>> sum(p.numel() for p in network.parameters() if p.dim() > 1)
    3752
    """

    scale: float = Field(1.0, gt=0, description="factor on the number of filters (cut, at least 1)")
    init: Init = Field("glorot", description="how weights are drawn at first")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for pictures `[n, channels, height, width]`."""
        filters = cut_width(16, self.scale)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(input_shape[0], filters, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(filters),
            relu=nn.ReLU(),
            **{f"block{number}": Block(filters) for number in (1, 2, 3)},
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            output=nn.Linear(filters, outputs),
        )
        network = nn.Sequential(layers)
        draw_all(network, self.init)
        check_fit(network, "resnet", input_shape, outputs, "it needs pictures: for others take mlp")
        return network

    def redraw(self, network: nn.Module) -> None:
        """Draw all weights anew, as `init` says."""
        draw_all(network, self.init)
