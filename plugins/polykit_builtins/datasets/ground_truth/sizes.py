"""How many features each layer of a feature model holds."""

from __future__ import annotations

import torch
from torch import Generator


def draw_sizes(
    features: int, minimum: int, maximum: int, generator: Generator | None = None
) -> tuple[int, ...]:
    """Draw layer sizes that sum to `features`, larger layers first (Plettscher, Algorithm 1).

    A layer is drawn from [lower, min(upper, rest)]; at first upper is `maximum` and lower the
    middle of the bounds, and once the rest fits below upper, upper falls to lower and lower halfway
    to `minimum`. A rest below `minimum` is spread over the layers that are not yet at `maximum`;
    what then is left becomes a last layer, the only one that may be below `minimum`. Where the rest
    is below lower, which the printed algorithm leaves open, it becomes a layer.

    >>> draw_sizes(64, 8, 32, torch.Generator().manual_seed(0))
    (23, 22, 19)
    """
    if not 1 <= minimum <= maximum:
        raise ValueError(f"min_neurons {minimum} and max_neurons {maximum} must be 1 ≤ min ≤ max")
    sizes: list[int] = []
    rest, upper, lower = features, maximum, (maximum + minimum) // 2
    while rest >= minimum:
        high = min(upper, rest)
        low = min(lower, high)
        sizes.append(int(torch.randint(low, high + 1, (), generator=generator)))
        rest -= sizes[-1]
        if rest <= upper:
            upper, lower = lower, (minimum + lower) // 2
    for layer, size in enumerate(sizes):
        added = min(maximum - size, rest)
        sizes[layer] += added
        rest -= added
    return (*sizes, rest) if rest else tuple(sizes)
