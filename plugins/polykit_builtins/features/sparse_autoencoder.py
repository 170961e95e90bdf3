"""A sparse autoencoder: writes vectors as sums of few directions out of many."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from polykit.errors import UsageError
from polykit.runtime.training.loop import StepLoss


class SparseAutoencoder(nn.Module):
    """x ≈ b + Σ_j c_j(x) d_j with codes c = ReLU(W (x − b) + a), |d_j| = 1.

    Maps vectors `[n, dimension]` to their reconstructions. `size` directions d_j, usually more
    than dimensions. With `k` only the k largest codes of a vector stay. b starts at `mean`, d_j at
    random, W at the transpose of d, a at 0. Source: Cunningham et al. 2023 and Bricken et al. 2023
    (L1, pre-bias); Makhzani & Frey 2014 and Gao et al. 2024 (top-k).

    >>> autoencoder = SparseAutoencoder(torch.zeros(3), 6, k=2, generator=torch.Generator())
    >>> (autoencoder.encode(torch.eye(3)) > 0).sum(dim=1).tolist()
    [2, 2, 2]
    """

    def __init__(
        self, mean: Tensor, size: int, *, k: int | None = None, generator: Generator
    ) -> None:
        super().__init__()
        directions = F.normalize(torch.randn(size, len(mean), generator=generator)).to(mean)
        self.k = k
        self.bias = nn.Parameter(mean.clone())
        self.decoder = nn.Parameter(directions.T.contiguous())
        self.encoder = nn.Parameter(directions)
        self.threshold = nn.Parameter(torch.zeros_like(directions[:, 0]))

    @property
    def directions(self) -> Tensor:
        """The unit vectors d_j `[size, dimension]`, columns of the decoder."""
        return F.normalize(self.decoder, dim=0).T

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes `[n, size]`, none below 0."""
        codes = F.relu(F.linear(x - self.bias, self.encoder, self.threshold))
        if self.k is None:
            return codes
        top = codes.topk(self.k, dim=1)
        return torch.zeros_like(codes).scatter(1, top.indices, top.values)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors `[n, dimension]` that codes stand for."""
        return self.bias + codes @ self.directions

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructions."""
        return self.decode(self.encode(x))


def sparse_loss(l1: float) -> StepLoss:
    """Return the loss mean |x − x̂|² + `l1` · mean Σ_j c_j of a `SparseAutoencoder`.

    >>> autoencoder = SparseAutoencoder(torch.zeros(3), 6, generator=torch.Generator())
    >>> sparse_loss(0.0)(autoencoder, torch.zeros(1, 3), torch.ones(1, 3)).item()
    3.0
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(model, SparseAutoencoder)
        codes = model.encode(x)
        error = (model.decode(codes) - y).square().sum(dim=1).mean()
        return error + l1 * codes.sum(dim=1).mean() if l1 else error

    return loss


def mean_max_cosine(truth: Tensor, found: Tensor) -> float:
    """Return the mean over true directions `[q, d]` of the largest cosine with one of `[m, d]`.

    In [−1, 1]; directions of length 0 are left out of both. Raises UsageError if none is left.
    Source: Sharkey et al. 2022.

    >>> round(mean_max_cosine(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 1.0]])), 4)
    0.8536
    """
    truth, found = (_unit(directions) for directions in (truth, found))
    return float((truth @ found.T).amax(dim=1).mean())


def _unit(directions: Tensor) -> Tensor:
    directions = directions.detach().cpu().double()
    lengths = directions.norm(dim=1, keepdim=True)
    moved = lengths.squeeze(1) > 0
    if not bool(moved.any()):
        raise UsageError("all directions have length 0, so none can be compared")
    unit: Tensor = directions[moved] / lengths[moved]
    return unit
