"""How many of the smallest weights stay the smallest."""

from __future__ import annotations

from torch import Tensor


def smallest_overlap(before: Tensor, after: Tensor, share: float) -> float:
    """Return the share of all weights that are among the smallest, by size, before and after.

    Of both tensors of one shape the `share` of smallest |w| is taken, of equal ones the first. Two
    independent choices overlap by share²: 0.16 for 0.4. Source: Schoots et al., Propensity for
    density, §5.1.

    >>> from torch import tensor
    >>> smallest_overlap(tensor([1.0, -2.0, 3.0, 4.0]), tensor([0.1, 5.0, 0.2, 3.0]), 0.5)
    0.25
    """
    count = round(share * before.numel())
    first, then = (w.detach().abs().flatten().argsort(stable=True)[:count] for w in (before, after))
    both = set(first.tolist()) & set(then.tolist())
    return len(both) / before.numel()
