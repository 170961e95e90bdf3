"""Triangular factors of tall matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polykit.runtime.degeneracy.triangular import append, reciprocal_condition


def normal(n: int, width: int, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=random, dtype=torch.float64)


def rows_of(T: Tensor, n: int, seed: int) -> Tensor:
    """Rows [n, d] whose triangular factor is T, whatever its condition."""
    return torch.linalg.qr(normal(n, len(T), seed)).Q @ T


def triangle(d: int, condition: float, seed: int) -> Tensor:
    """A triangular factor of that condition."""
    u, v = (torch.linalg.qr(normal(d, d, seed + k)).Q for k in (1, 2))
    sizes = torch.logspace(0, -1, d, base=condition, dtype=torch.float64)
    return torch.linalg.qr(u * sizes @ v).R


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_a_running_factor_is_that_of_all_rows(sizes: list[int]) -> None:
    rows = normal(sum(sizes), 4)
    R, seen = torch.zeros(0, 4, dtype=torch.float64), 0
    for part in rows.split(sizes):
        R, seen = append(R, part), seen + len(part)
        assert R.shape == (min(seen, 4), 4)
    torch.testing.assert_close(R.T @ R, rows.T @ rows)
    assert append(R, rows[:0]) is R


@settings(deadline=None, max_examples=60)
@given(
    digits=st.floats(0, 5),
    scales=st.floats(-9, 9),
    dead=st.booleans(),
    pieces=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_small_directions_are_as_exact_as_large_ones(
    digits: float, scales: float, dead: bool, pieces: int, seed: int
) -> None:
    """xᵀRᵀRx is right to 1e-9 for every x, whatever the condition or the size of columns.

    Products alone would be wrong by 1e-6 of it at a condition of 1e5, QR is by 1e-11.
    """
    d, n = 8, 120
    T = triangle(d, 10**digits, seed) * torch.logspace(0, scales, d, dtype=torch.float64)
    rows = rows_of(T, n, seed)
    if dead:
        rows = torch.cat([rows, rows.new_zeros(n, 1)], dim=1)[:, [d, *range(d)]]
    R = rows[:0]
    for part in rows.chunk(pieces):
        R = append(R, part)
    if dead:
        assert not R[:, 0].any()
        R = R[:, 1:]
    around = torch.linalg.solve_triangular(T, R, upper=True, left=False)
    assert (torch.linalg.svdvals(around) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_sizes_whose_squares_have_no_number_are_kept(size: float) -> None:
    rows = normal(50, 3)
    rows[:, 1] *= size
    R = append(rows[:0], rows)
    expected = torch.linalg.qr(rows).R
    torch.testing.assert_close(R.abs() / size, expected.abs() / size, rtol=1e-9, atol=0)


def test_equal_columns_leave_no_direction_of_their_own() -> None:
    rows = normal(50, 3)[:, [0, 1, 2, 1]]
    singular = torch.linalg.svdvals(append(rows[:0], rows))
    assert singular[3] < 1e-14 * singular[0] < singular[2]


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 99))
def test_the_condition_is_estimated_within_what_norms_allow(d: int, seed: int) -> None:
    T = triangle(d, 1e4, seed)
    exact = 1 / float(torch.linalg.cond(T, 1))
    assert 0.99 * exact < reciprocal_condition(T) < 10 * exact
