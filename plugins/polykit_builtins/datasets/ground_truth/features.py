"""Drawing sparse features: how often each one occurs, and which occur together."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def draw_features(
    n: int, sparsity: Tensor, *, correlation: float = 0, groups: int = 1, generator: Generator
) -> Tensor:
    """Draw `[n, q]` features: 0 with probability `sparsity[j]`, else U(0, 1).

    Feature j belongs to group j mod `groups`. Each decision whether it occurs is the group's common
    one with probability √`correlation`, else its own. Two features of a group that occur equally
    often thus correlate (in whether they occur) by exactly `correlation`, those that do not by
    less; features of different groups are independent; `sparsity` holds whatever the correlation.

    >>> draw_features(3, torch.tensor([0.0, 1.0]), generator=torch.Generator()).shape
    torch.Size([3, 2])
    """
    q = len(sparsity)
    chance = torch.rand(n, q, generator=generator)
    values = torch.rand(n, q, generator=generator)
    if correlation:
        common = torch.rand(n, groups, generator=generator)[:, torch.arange(q) % groups]
        joins = torch.rand(n, q, generator=generator) < correlation**0.5
        chance = torch.where(joins, common, chance)
    return values * (chance >= sparsity)


def tilt(sparsity: Tensor, exponent: float, generator: Generator) -> Tensor:
    """Make frequencies fall as a power law: p_j = min(1, c · (1 − s_j) · rank_j^−`exponent`).

    Ranks are dealt at random, and c is such that the mean of p stays. Returns 1 − p `[q]`.
    """
    ranks = 1 + torch.randperm(len(sparsity), generator=generator).double()
    frequency = 1 - sparsity.double()
    total, shape = frequency.sum(), frequency * ranks**-exponent
    full = torch.zeros(len(sparsity), dtype=torch.bool)
    while True:  # at most q rounds: each fills one more
        rest = torch.where(full, 0, shape).sum()
        scaled = shape * ((total - full.sum()) / rest if rest > 0 else 0)
        more = ~full & (scaled > 1)
        if not more.any():
            return (1 - torch.where(full, 1, scaled)).to(sparsity.dtype).clamp(0, 1)
        full |= more
