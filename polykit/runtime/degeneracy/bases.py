"""Bases of a layer's activations, as linear algebra: the interaction basis and principal axes.

Activations carry a constant 1: f = (1, f_1, …, f_d). A basis is made from two factors, F with
FᵀF = G = ⟨f fᵀ⟩ and J with JᵀJ = M = ⟨Σ_k ∂y_k ∂y_kᵀ⟩, y the network's outputs; never from G and M
themselves, whose condition is the square of theirs (`triangular` makes factors). Everything is
float64.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from polykit.errors import RunError, UsageError
from polykit.runtime.degeneracy.triangular import reciprocal_condition, triangle
from polykit.runtime.files import write_bytes

Kind = Literal["interaction", "pca"]

TOLERANCE = 1e-12
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True)
class Basis:
    """Directions of a layer's activations f = (1, f_1, …, f_d), largest first.

    `forward [r, d + 1]` takes f to its r coordinates, `backward [d + 1, r]` takes them back.
    `spectrum [r]` holds the mean square of each coordinate: D_M in the interaction basis, the
    eigenvalues of G for principal axes. `constant [d + 1]` completes what `backward` gives to
    a vector that begins with 1, along a direction that was dropped. `activation_rank` and
    `jacobian_rank` are the ranks of G and M, `samples` how many rows they were made of.
    """

    kind: Kind
    forward: Tensor
    backward: Tensor
    spectrum: Tensor
    constant: Tensor
    activation_rank: int
    jacobian_rank: int
    samples: int

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return len(self.spectrum)

    @property
    def limited_by_samples(self) -> bool:
        """Whether there were too few samples to show more directions than these."""
        centred = not bool(self.backward[0].any())  # the mean took one off either number
        return self.activation_rank == self.samples - centred < self.forward.shape[1] - centred

    def project(self, values: Tensor) -> Tensor:
        """Turn a layer's values `[n, d, *positions]` into coordinates `[n, r, *positions]`.

        Raises UsageError for values of another width.
        """
        f = self._moved(values, self.forward.shape[1] - 1)
        C = self.forward.to(f)
        return (f @ C[:, 1:].T + C[:, 0]).movedim(-1, 1)

    def restore(self, coordinates: Tensor) -> Tensor:
        """Turn coordinates `[n, r, *positions]` into values of the layer, `[n, d, *positions]`.

        On the samples that the basis was made from, the values differ from the original ones only
        by what no output responds to: to first order the network computes what it did, and exactly
        unless a neuron behind the layer starts to fire that never did on those samples.
        """
        found = self._moved(coordinates, self.rank)
        f = found @ self.backward.to(found).T
        return (f + (1 - f[..., :1]) * self.constant.to(f))[..., 1:].movedim(-1, 1)

    def _moved(self, values: Tensor, width: int) -> Tensor:
        if values.dim() < 2 or values.shape[1] != width:
            raise UsageError(
                f"this basis takes values of shape [n, {width}, ...], not {list(values.shape)}; "
                f"it belongs to another layer or network"
            )
        return values.movedim(1, -1)


def interaction_basis(
    F: Tensor, J: Tensor, samples: int, *, centred: bool = False, tolerance: float = TOLERANCE
) -> Basis:
    """Return the interaction basis f̂ = D_M^{1/2} V (D_G^{1/2})⁺ U f from factors of G and M.

    `F [m, d + 1]` with FᵀF = G and `J [e, d + 1]` with JᵀJ = M; the constant's column comes
    first. In the basis Ĝ = D_M and M̂ = 1. It is read off the singular value decomposition
    J Fᵀ = Y S Zᵀ: f̂ = Yᵀ J f for all f in the range of G, and back f = Fᵀ Z S⁻¹ f̂. Neither factor
    is ever inverted, so that a change of coordinates f → R f leaves f̂ as it was even where R is
    badly conditioned. Directions whose S is below `tolerance` of the largest, or within the
    rounding error of the product, are dropped: their number is rank(G M). `centred` subtracts the
    mean first and leaves the constant out; M̂ is diagonal then only apart from it.

    Raises UsageError for factors that do not fit each other. Source: Bushnaq et al. 2024, §4, with
    the exponents of its whitening and its last factor mended.

    >>> basis = interaction_basis(torch.diag(torch.tensor([1.0, 2.0])), torch.eye(2), 10)
    >>> basis.spectrum, basis.project(torch.tensor([[2.0]])).abs()
    (tensor([4., 1.], dtype=torch.float64), tensor([[2., 1.]]))
    """
    F, J = _factors(F, J)
    noise = _rounding(F)
    F, J, mean = _centred(F, J) if centred else (F, J, None)
    Y, S, Zt = torch.linalg.svd(J @ F.T, full_matrices=False)
    rank = rank_of(S, tolerance, noise * float(J.norm()))
    Y, S, Z = Y[:, :rank], S[:rank], Zt[:rank].T
    activation_rank, span = _span(F, tolerance, noise)
    forward = Y.T @ J if span is None else (Y.T @ J @ span.T) @ span
    backward = F.T @ (Z / S)
    if mean is None:
        constant = _unread_constant(F, Z)
    else:
        forward, backward, constant = _uncentred(forward, backward, mean)
    jacobian_rank = rank_of(torch.linalg.svdvals(J), tolerance)
    return _signed(
        "interaction", forward, backward, S**2, constant, activation_rank, jacobian_rank, samples
    )


def principal_axes(
    F: Tensor, J: Tensor, samples: int, *, centred: bool = False, tolerance: float = TOLERANCE
) -> Basis:
    """Return the principal axes of f: the eigenvectors of G, orthonormal, for comparison.

    Arguments as of `interaction_basis`; directions without variance are dropped.

    >>> principal_axes(torch.diag(torch.tensor([1.0, 2.0])), torch.eye(2), 10).spectrum
    tensor([4., 1.], dtype=torch.float64)
    """
    F, J = _factors(F, J)
    noise = _rounding(F)
    F, J, mean = _centred(F, J) if centred else (F, J, None)
    _, S, Ut = torch.linalg.svd(F)
    rank = rank_of(S, tolerance, noise)
    forward, backward = Ut[:rank], Ut[:rank].T
    constant = torch.zeros_like(Ut[:, 0])
    if mean is not None:
        forward, backward, constant = _uncentred(forward, backward, mean)
    jacobian_rank = rank_of(torch.linalg.svdvals(J), tolerance)
    return _signed("pca", forward, backward, S[:rank] ** 2, constant, rank, jacobian_rank, samples)


def neuron_weights(F: Tensor, J: Tensor, *, centred: bool = False) -> Tensor:
    """Return G_ii M_ii of each coordinate of f, `[d + 1]`, or `[d]` where the constant is left out.

    What D_M is in the interaction basis, where Ĝ M̂ = D_M: how much each neuron varies, times how
    strongly the outputs respond to it; the constant comes first.

    >>> neuron_weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)).tolist()
    [1.0, 4.0]
    """
    F, J = _factors(F, J)
    noise = _rounding(F)
    if centred:
        F, J, _ = _centred(F, J)
    G = F.square().sum(dim=0)
    return G.masked_fill(G.le(noise**2), 0) * J.square().sum(dim=0)


def effective_number(weights: Tensor) -> float:
    """Return exp(entropy) of non-negative weights: how many of them count, 0 if all are zero.

    Roy & Vetterli 2007, The effective rank, eq. 2.

    >>> round(effective_number(torch.tensor([1.0, 1.0, 0.0])), 6)
    2.0
    """
    total = weights.sum()
    if not bool(total > 0):
        return 0.0
    return float(torch.special.entr(weights / total).sum().exp())


def rank_of(singular: Tensor, tolerance: float = TOLERANCE, noise: float = 0.0) -> int:
    """Count the singular values above `tolerance` times the largest, and above `noise`.

    >>> rank_of(torch.tensor([2.0, 1.0, 1e-15])), rank_of(torch.zeros(2))
    (2, 0)
    """
    return int((singular > max(tolerance * float(singular.max()), noise)).sum())


def _factors(F: Tensor, J: Tensor) -> tuple[Tensor, Tensor]:
    if F.dim() != 2 or J.dim() != 2 or F.shape[1] != J.shape[1]:
        raise UsageError(
            f"factors of shapes {tuple(F.shape)} and {tuple(J.shape)} are not of one layer; both "
            f"need a column for the constant and one for each unit"
        )
    return F.double(), J.double()


def _rounding(F: Tensor) -> float:
    """How large singular values may be that come from rounding alone."""
    return torch.finfo(F.dtype).eps * F.shape[1] * float(F.norm())


def _centred(F: Tensor, J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Drop the constant and return the factors of f − mean, and the mean.

    With the constant's column first, what a QR leaves of the others is centred.
    """
    R = triangle(F)
    return R[1:, 1:], J[:, 1:], R[0, 1:] / R[0, 0]


def _uncentred(forward: Tensor, backward: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let maps of f − mean take (1, f)."""
    forward = torch.cat([-(forward @ mean)[:, None], forward], dim=1)
    backward = torch.cat([torch.zeros_like(backward[:1]), backward])
    return forward, backward, torch.cat([torch.ones_like(mean[:1]), mean])


def _span(F: Tensor, tolerance: float, noise: float) -> tuple[int, Tensor | None]:
    """Return the rank of F, and an orthonormal basis of its row space if that is not everything.

    A condition estimate comes first, since it is much cheaper: it is within a factor d of the
    ratio of the singular values.
    """
    if F.shape[0] == F.shape[1]:
        share = reciprocal_condition(triangle(F))
        size = float(F.norm())
        if share * size > len(F) * max(tolerance * size, noise):
            return len(F), None
    _, S, Vh = torch.linalg.svd(F, full_matrices=False)
    rank = rank_of(S, tolerance, noise)
    return rank, None if rank == F.shape[1] else Vh[:rank]


def _unread_constant(F: Tensor, Z: Tensor) -> Tensor:
    """Return the smallest vector of the dropped directions that begins with 1, or zero.

    What is dropped of F's first column belongs to the constant; zero if it was kept whole.
    """
    dropped = F[:, 0] - Z @ (Z.T @ F[:, 0])
    size = dropped.norm()
    if float(size) < 1e-8 * float(F[:, 0].norm()):
        return torch.zeros_like(F[0])
    smallest: Tensor = F.T @ dropped / size.square()
    return smallest


def _signed(kind: Kind, forward: Tensor, backward: Tensor, *rest: Any) -> Basis:
    """Give each direction the sign that makes its largest coefficient positive."""
    largest = forward.gather(1, forward.abs().argmax(dim=1, keepdim=True))
    sign = largest.sign()
    return Basis(kind, forward * sign, backward * sign.T, *rest)


def save_bases(path: Path, bases: Mapping[str, Basis]) -> None:
    """Write bases by layer as one safetensors file, whole or not at all."""
    write_bytes(path, bases_bytes(bases))


def bases_bytes(bases: Mapping[str, Basis]) -> bytes:
    """Serialise bases by layer as `save_bases` writes them."""
    tensors, facts = {}, {}
    for layer, basis in bases.items():
        for name in _TENSORS:
            tensors[f"{name}/{layer}"] = getattr(basis, name).cpu().contiguous().clone()
        facts[layer] = {name: getattr(basis, name) for name in _FACTS}
    return save(tensors, {"polykit": json.dumps(facts, sort_keys=True)})


def load_bases(path: Path) -> dict[str, Basis]:
    """Read what `save_bases` wrote; raise RunError if the file is something else."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["polykit"])
            return {
                layer: Basis(
                    **{name: file.get_tensor(f"{name}/{layer}") for name in _TENSORS},
                    **{name: values[name] for name in _FACTS},
                )
                for layer, values in facts.items()
            }
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise RunError(f"{path} holds no bases: {error}") from error


_TENSORS = ("forward", "backward", "spectrum", "constant")
_FACTS = ("kind", "activation_rank", "jacobian_rank", "samples")
