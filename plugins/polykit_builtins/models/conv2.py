"""Conv-2, a small VGG."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import nn

from polykit.api import Field, Model
from polykit_builtins.models.fitting import check_fit
from polykit_builtins.models.initial import Init, cut_width, draw_all

_REMEDY = "it needs pictures of at least 2×2 pixels; for other inputs take mlp"


class Conv2(Model):
    """Two 3×3 convolutions of 64 filters, a 2×2 max-pool, two linear layers of 256, the output.

    A ReLU follows each hidden layer; padding keeps the size of the picture. With `scale` s the
    widths are ⌊64 s⌋ and ⌊256 s⌋. On 3×32×32 pictures it has 4,300,992 weights, as in Frankle &
    Carbin 2019 (Fig. 2). The counts of Schoots et al. (Table 1: 43,780,864 at scale 1) are those of
    these widths with *unshared* kernels, the 9 weights of a kernel counted once for each of the
    32×32 positions, and 4 more parameters per filter: 9·1024·(3f + f²) + 256·f·d + d² + 10·d + 4·f
    with f = ⌊64 s⌋ and d = ⌊256 s⌋ gives all four of them to the last digit. A convolution shares
    its kernels, so this network has fewer.

    Raises ModelError for inputs that are no pictures.

    >>> network = Conv2(scale=0.1).build((3, 32, 32), 10)
    >>> [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight")]
    [(6, 3, 3, 3), (6, 6, 3, 3), (25, 1536), (25, 25), (10, 25)]
    """

    scale: float = Field(1.0, gt=0, description="factor on all widths (cut, at least 1)")
    init: Init = Field("glorot", description="how weights are drawn at first")

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network for pictures `[n, channels, height, width]`."""
        channels, *sides = input_shape
        places = max(1, prod(side // 2 for side in sides))
        filters, units = cut_width(64, self.scale), cut_width(256, self.scale)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, filters, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(filters, filters, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden1=nn.Linear(filters * places, units),
            relu3=nn.ReLU(),
            hidden2=nn.Linear(units, units),
            relu4=nn.ReLU(),
            output=nn.Linear(units, outputs),
        )
        network = nn.Sequential(layers)
        draw_all(network, self.init)
        check_fit(network, "conv2", input_shape, outputs, _REMEDY)
        return network

    def redraw(self, network: nn.Module) -> None:
        """Draw all weights anew, as `init` says."""
        draw_all(network, self.init)
