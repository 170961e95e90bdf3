"""LeNet-300-100."""

from __future__ import annotations

from polykit.api import Field, IntList
from polykit_builtins.models.mlp import Mlp


class Lenet(Mlp):
    """The perceptron LeNet-300-100: two hidden layers of 300 and 100 units with ReLU.

    On 28×28 pictures it has 266,200 weights (biases apart); scales 0.1, 0.5, 2 and 5 have 23,920,
    125,600, 592,400 and 1,931,000. Source: LeCun et al. 1998; Schoots et al., Propensity for
    density, §3.1 and Table 1.

    >>> print(Lenet(scale=0.1).build((1, 28, 28), 10))
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (hidden1): Linear(in_features=784, out_features=30, bias=True)
      (relu1): ReLU()
      (hidden2): Linear(in_features=30, out_features=10, bias=True)
      (relu2): ReLU()
      (output): Linear(in_features=10, out_features=10, bias=True)
    )
    """

    widths: IntList = Field((300, 100), description="neurons of each hidden layer, e.g. 300,100")
