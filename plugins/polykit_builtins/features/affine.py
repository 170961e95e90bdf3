"""Feature spaces that are affine: every feature adds its own offset to a common origin."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """Maps coefficients `[n, q]` to `[n, *shape]`: origin `[*shape]` + Σ_j f_j · offset_j.

    `offsets` are `[q, *shape]`, or of a shape that spreads over it, such as `[q, channels, 1, 1]`.

    >>> import torch
    >>> Affine(torch.zeros(2, 3), torch.tensor([[[1.0], [2.0]]]))(torch.tensor([[0.5]]))
    tensor([[[0.5000, 0.5000, 0.5000],
             [1.0000, 1.0000, 1.0000]]])
    """

    origin: Tensor
    offsets: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Encode coefficient vectors, row by row."""
        offsets = self.offsets.to(features)
        sums = (features @ offsets.flatten(1)).view(-1, *offsets.shape[1:])
        return self.origin.to(features) + sums
