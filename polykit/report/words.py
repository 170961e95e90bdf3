"""Small wording shared by figures and sentences: numbers, intervals, lists."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from polykit.report.numbers import Estimate

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, those that turn the direction of writing among them."""


def visible(value: Any) -> Any:
    r"""Write control characters of a text as `\uNNNN`, so that no name can hide or reorder others.

    Anything but plain text is returned as it is: marked-up text is our own.

    >>> print(visible("a" + chr(0x202E) + "b"))
    a\u202eb
    """
    if type(value) is not str:
        return value
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


def number(value: float, like: float | None = None) -> str:
    """Write a number with three significant digits, or with as many decimals as `like` gets.

    >>> number(0.12345), number(-12.345), number(12345.6), number(0.1, like=12.3)
    ('0.123', '−12.3', '12,346', '0.1')
    """
    scale = abs(value if like is None else like)
    if scale and not 1e-4 <= scale < 1e9:
        return f"{value:.2e}".replace("-", "−")
    decimals = max(0, 2 - math.floor(math.log10(scale))) if scale else 2
    text = f"{value:,.{decimals}f}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def signed(value: float, like: float | None = None) -> str:
    """Write a difference with its sign.

    >>> signed(0.5), signed(-0.5), signed(0.01, like=12.3)
    ('+0.500', '−0.500', '0.0')
    """
    text = number(value, like)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def interval(estimate: Estimate, name: str = "", like: Estimate | None = None) -> str:
    """Write a difference with its interval in brackets, to two digits of its half width.

    With a single seed there is no interval. `name` is what to call it where it first appears.
    Another estimate, `like`, lends its decimals to what belongs to it.

    >>> interval(Estimate(-1.214, 3, 0.288))
    '−1.21 [−1.50, −0.93]'
    >>> interval(Estimate(-1.214, 3, 0.288), "95 % interval ")
    '−1.21 [95 % interval −1.50, −0.93]'
    >>> interval(Estimate(0.5, 1))
    '+0.500'
    >>> interval(Estimate(0.00123, 3, 0.00001), like=Estimate(-1.214, 3, 0.288))
    '0.00 [0.00, 0.00]'
    """
    model = like or estimate
    if estimate.half is None:
        return signed(estimate.mean, model.mean)
    scale = 10 * (model.half or 0.0) or model.mean
    ends = f"{number(estimate.low, scale)}, {number(estimate.high, scale)}"
    return f"{signed(estimate.mean, scale)} [{name}{ends}]"


def correlation(value: float, low: float, high: float) -> str:
    """Write a correlation with its interval, to two decimals.

    >>> correlation(0.456, -0.101, 0.8)
    '+0.46 [−0.10, +0.80]'
    """
    told, below, above = (f"{number:+.2f}".replace("-", "−") for number in (value, low, high))
    return f"{told} [{below}, {above}]"


def chance(p: float) -> str:
    r"""Write a p-value in a sentence.

    >>> chance(0.0312), chance(1e-9)
    ('p\xa0=\xa00.031', 'p\xa0<\xa00.001')
    """
    text = chance_alone(p)
    return f"p\u00a0{text}" if text.startswith("<") else f"p\u00a0=\u00a0{text}"


def chance_alone(p: float) -> str:
    r"""Write a p-value in a column of such.

    >>> chance_alone(0.0312), chance_alone(0.4), chance_alone(1e-9)
    ('0.031', '0.40', '<\xa00.001')
    """
    if p < 0.001:
        return "<\u00a00.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def seeds(n: int) -> str:
    """Write a number of seeds.

    >>> seeds(1), seeds(3)
    ('1 seed', '3 seeds')
    """
    return f"{n} seed{'' if n == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """Write a list as people do.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capital(text: str) -> str:
    """Write the first letter large and leave the rest alone.

    >>> capital("a ReLU")
    'A ReLU'
    """
    return text[:1].upper() + text[1:]
