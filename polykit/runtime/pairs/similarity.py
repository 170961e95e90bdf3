"""How alike two networks are in what they compute: layer by layer, and in what they predict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.passes.capture import Captured, capture, unit_values
from polykit.runtime.passes.trace import evaluating
from polykit.types import Site, Trace


@dataclass(frozen=True)
class Agreement:
    """How often two classifiers predict the same, in [0, 1].

    `chance` is what would agree if their predictions had nothing to do with each other, but each
    class were as frequent in either as it is. `kappa` is (share − chance) / (1 − chance), Cohen's;
    None where chance alone agrees always.
    """

    share: float
    chance: float

    @property
    def kappa(self) -> float | None:
        """Agreement beyond chance: 1 if they always agree, 0 at chance."""
        return (self.share - self.chance) / (1 - self.chance) if self.chance < 1 else None


@dataclass(frozen=True)
class Similarity:
    """How alike two networks are.

    `cka` is `[layers of A, layers of B]`, NaN where a layer's units never change. `correlation` is
    that of their outputs, in [−1, 1], None where an output never changes. `agreement` is that of
    their predicted classes, None where there are none.
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    cka: Tensor
    correlation: float | None
    agreement: Agreement | None


def similarity(
    a: tuple[nn.Module, Trace],
    b: tuple[nn.Module, Trace],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    classes: bool,
) -> Similarity:
    """Compare two networks, of whatever shapes, on the same inputs, in one pass.

    Layers are read behind their nonlinearity, one value per unit and sample: the mean over its map.
    Linear CKA is ‖Cov(X, Y)‖² / (‖Cov(X, X)‖ ‖Cov(Y, Y)‖), Frobenius norms, in [0, 1]; it does not
    see rotations, so a permutation of units changes nothing. With fewer samples than units it is
    biased upwards. The outputs' correlation is Σ cov / √(Σ var · Σ var) over the outputs.

    Memory: the covariance of all units of both networks in float64, (p_a + p_b)² numbers, and one
    chunk; nothing grows with the number of samples.

    Raises ModelError where the networks' outputs differ in number, or a value is not finite.
    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 3 and §3.

    >>> from polykit.runtime.passes.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(9, 2)
    >>> known, cpu = (model, trace(model, x)), torch.device("cpu")
    >>> found = similarity(known, known, [(x, torch.zeros(9))], cpu, classes=True)
    >>> found.agreement.share, found.cka.diagonal().round(decimals=6).tolist()
    (1.0, [1.0, 1.0])
    """
    sites = [[Site(layer, "post") for layer in trace.layers] for _, trace in (a, b)]
    moments, confusion = Moments(), Confusion()
    sizes: list[int] = []
    with evaluating(a[0]), evaluating(b[0]), torch.no_grad():
        for x, _ in batches:
            read = [
                capture(model, x.to(device), where, trace, outputs=True)
                for (model, trace), where in zip((a, b), sites, strict=True)
            ]
            rows = [*_units(read[0], sites[0]), *_units(read[1], sites[1])]
            outputs = [_outputs(one) for one in read]
            if outputs[0].shape != outputs[1].shape:
                raise ModelError(
                    f"the networks give {outputs[0].shape[1]} and {outputs[1].shape[1]} outputs, "
                    f"so they cannot be compared"
                )
            if classes:
                confusion.add(outputs[0].argmax(1), outputs[1].argmax(1), outputs[0].shape[1])
            joined = [*rows, *outputs]
            sizes = [part.shape[1] for part in joined]
            moments.add(torch.cat(joined, dim=1))
    blocks = [list(row.split(sizes, dim=1)) for row in moments.covariance().split(sizes)]
    count = len(sites[0])
    cka = [
        [_cka(blocks[i][i], blocks[i][j], blocks[j][j]) for j in range(count, len(sizes) - 2)]
        for i in range(count)
    ]
    return Similarity(
        a[1].layers,
        b[1].layers,
        torch.tensor(cka),
        _correlation(blocks[-2][-2], blocks[-2][-1], blocks[-1][-1]),
        confusion.agreement() if classes else None,
    )


class Moments:
    """Covariances of the columns of what comes in parts; parts of any size give the same."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._scatter = torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Add rows `[n, p]`. Source: Chan, Golub & LeVeque 1983 (two parts, joined)."""
        values, n = rows.double(), len(rows)
        mean = values.mean(0)
        apart = values - mean
        scatter = apart.T @ apart
        if self._count:
            total, step = self._count + n, mean - self._mean
            scatter = self._scatter + scatter + torch.outer(step, step) * (self._count * n / total)
            mean = self._mean + step * (n / total)
        self._count, self._mean, self._scatter = self._count + n, mean, scatter

    def covariance(self) -> Tensor:
        """Return the covariance matrix `[p, p]`, divided by n."""
        return (self._scatter / self._count).cpu()


class Confusion:
    """How often one network says i where the other says j."""

    def __init__(self) -> None:
        self._counts = torch.zeros(())

    def add(self, a: Tensor, b: Tensor, classes: int) -> None:
        """Count predicted classes `[n]`."""
        pairs = torch.bincount((a * classes + b).cpu(), minlength=classes**2)
        self._counts = self._counts + pairs.double().view(classes, classes)

    def agreement(self) -> Agreement:
        """Return share and chance of agreeing."""
        joint = self._counts / self._counts.sum()
        return Agreement(float(joint.trace()), float(joint.sum(0) @ joint.sum(1)))


def _units(read: Captured, sites: list[Site]) -> list[Tensor]:
    """Each layer's units, `[n, units]`."""
    found = [unit_values(read.values[site]) for site in sites]
    for site, values in zip(sites, found, strict=True):
        if not bool(torch.isfinite(values).all()):
            raise ModelError(f"layer {site} gives NaN or infinite values; look at its weights")
    return found


def _outputs(read: Captured) -> Tensor:
    assert read.outputs is not None  # asked for
    return read.outputs.flatten(1)


def _cka(within_a: Tensor, cross: Tensor, within_b: Tensor) -> float:
    spread = float(within_a.norm() * within_b.norm())
    return float(cross.square().sum()) / spread if spread > 0 else math.nan


def _correlation(within_a: Tensor, cross: Tensor, within_b: Tensor) -> float | None:
    spread = float((within_a.trace() * within_b.trace()).sqrt())
    return float(cross.trace()) / spread if spread > 0 else None
