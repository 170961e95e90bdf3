"""Where along a row of steps something ends, without looking at them all."""

from __future__ import annotations

from collections.abc import Callable


def crossing(last: int, holds: Callable[[int], bool]) -> int | None:
    """Return a step in 1…`last` where `holds` is false and was true one step before.

    `holds(0)` is taken for true. Asks about `last` first, then about ⌈log2(last)⌉ steps at most.
    Where `holds` ends more than once, one of the ends is found; None if it holds at `last`.

    >>> asked = []
    >>> crossing(50, lambda step: asked.append(step) or step < 30), len(asked)
    (30, 7)
    """
    if holds(last):
        return None
    good, bad = 0, last
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return bad
