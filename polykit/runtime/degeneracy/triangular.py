"""Triangular factors of tall matrices, kept up to date as rows come in.

RᵀR is the sum of outer products of all rows so far. R is what a QR decomposition leaves, so that
small singular values are as exact as large ones allow, where those of the sum itself are not: their
condition is squared. Float64 throughout.
"""

from __future__ import annotations

import torch
from scipy.linalg.lapack import dtrcon
from torch import Tensor

WELL_CONDITIONED = 1e-3
"""Reciprocal condition, of columns scaled to length 1, above which a Cholesky decomposition serves.

It changes xᵀRᵀRx, for every x, by about 2⁻⁵² times the square of the condition: 1e-10 of it.
"""


def append(R: Tensor, rows: Tensor) -> Tensor:
    """Return the triangular factor of the rows behind `R` and of `rows [n, d]` together.

    Start from no rows, `[0, d]`; the factor has at most as many rows as there were, and at most d.
    Many rows cost a matrix product where they are well conditioned; if not, a QR decomposition
    in blocks that fit a cache. Memory beside `rows`: about 16 d² numbers.

    >>> R = append(torch.zeros(0, 1), torch.tensor([[3.0], [4.0]]))
    >>> R.abs()
    tensor([[5.]])
    """
    if not len(rows):
        return R
    part = _by_cholesky(rows)
    parts = [part] if part is not None else _by_blocks(rows)
    if len(parts) == 1 and not len(R):
        return parts[0]
    return triangle(torch.cat([R, *parts]))


def triangle(rows: Tensor) -> Tensor:
    """Return R of the QR decomposition of `rows [n, d]`, `[min(n, d), d]`."""
    R: Tensor = torch.linalg.qr(rows, mode="r").R
    return R


def reciprocal_condition(R: Tensor) -> float:
    """Estimate 1 / (‖R‖₁ ‖R⁻¹‖₁) of an upper triangular `R [d, d]` from its d² numbers alone.

    >>> reciprocal_condition(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64)))
    0.25
    """
    share, _ = dtrcon(R.numpy(force=True))
    return float(share)


def _by_blocks(rows: Tensor) -> list[Tensor]:
    return [triangle(block) for block in rows.split(max(2048, 7 * rows.shape[1]))]


def _by_cholesky(rows: Tensor) -> Tensor | None:
    """The factor from the outer products' sum G, or None where that would not be exact enough.

    Columns are scaled first, since a column's size costs no digits, and columns of zeros left out.
    """
    n, d = rows.shape
    if n < 2 * d:
        return None
    G = rows.T @ rows
    size = G.diagonal().sqrt()
    used = size > torch.finfo(G.dtype).tiny ** 0.5 / torch.finfo(G.dtype).eps
    if bool(rows[:, ~used].any()) or not bool(used.any()):
        return None
    scaled = (G / size / size[:, None])[used][:, used]
    R, failed = torch.linalg.cholesky_ex(scaled, upper=True)
    if int(failed) or not reciprocal_condition(R) > WELL_CONDITIONED:
        return None
    factor = G.new_zeros(len(R), d)
    factor[:, used] = R * size[used]
    return factor
