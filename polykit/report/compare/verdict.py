"""The answer of a comparison in words."""

from __future__ import annotations

from polykit.report import words
from polykit.report.compare import numbers
from polykit.report.compare.numbers import POINTS, SHARE, Route
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

FAR = 0.2
"""Share of the way under the strongest pull that is too much to be left for want of strength."""


def verdict(run: SavedRun) -> Verdict:
    """Say for each pair what stands between the networks, and how alike they are."""
    first, others = str(run.meta.get("first")), numbers.others(run)
    if not others:
        return Verdict("No pair of networks was compared.")
    parts = tuple((f"{first} and {other}", tuple(_pair(run, other))) for other in others)
    return Verdict(_answer(run, first, others), parts, _notes(run, others))


def percent(value: float) -> str:
    r"""Write a share as a percentage.

    >>> percent(0.7061)
    '70.6\xa0%'
    """
    return f"{100 * value:.1f}\u00a0%"


def _answer(run: SavedRun, first: str, others: list[str]) -> str:
    lines = {other: numbers.route(run, other, "matched") for other in others}
    seen = {other: line for other, line in lines.items() if line is not None}
    if not seen:
        return f"{first} and {words.listed(others)}: {_alike(run, others[0])}"
    if len(seen) == 1:
        other, line = next(iter(seen.items()))
        naive = numbers.route(run, other, "unmatched")
        instead = f", instead of by {_height(naive)} as they are" if naive else ""
        return (
            f"{first} and {other} are {_connected(line)} up to the order of their units: on the "
            f"line between them {_rise(line)} with units matched{instead}."
        )
    near = [other for other, line in seen.items() if line.connected]
    heights = [line.loss for line in seen.values()]
    return (
        f"Up to the order of their units {len(near)} of {len(seen)} networks are linearly "
        f"connected with {first}: on the lines to them the training loss rises by "
        f"{words.number(min(heights))} to {words.number(max(heights))}."
    )


def _connected(line: Route) -> str:
    return "linearly connected" if line.connected else "not linearly connected"


def _rise(line: Route) -> str:
    if line.accuracy is None:
        return f"the training loss rises by {words.number(line.loss)}"
    return (
        f"the training loss rises by {words.number(line.loss)} and the accuracy falls by "
        f"{words.number(100 * line.accuracy)} points"
    )


def _height(line: Route) -> str:
    if line.accuracy is None:
        return words.number(line.loss)
    return f"{words.number(line.loss)} and {words.number(100 * line.accuracy)} points"


def _pair(run: SavedRun, other: str) -> list[str]:
    found = []
    for name, what in (
        ("matched", "units matched"),
        ("unmatched", "units as they are"),
        ("random", "random orders (control, mean)"),
    ):
        line = numbers.route(run, other, name)
        if line is not None:
            found.append(f"{what}: {_rise(line)}; {_connected(line)}")
    ways = [
        numbers.value(run, other, "distance", stage="compared", route=route)
        for route in ("matched", "unmatched")
    ]
    if ways[0] is not None and ways[1] is not None:
        found.append(
            f"matching brings them from a distance of {words.number(ways[1])} to "
            f"{words.number(ways[0])}"
        )
    found.append(_alike(run, other))
    return [*found, *_pulled(run, other)]


def _alike(run: SavedRun, other: str) -> str:
    def at(statistic: str, route: str = "functions") -> float | None:
        return numbers.value(run, other, statistic, stage="compared", route=route)

    share, chance, kappa = at("agreement"), at("agreement_by_chance"), at("kappa")
    if share is not None and chance is not None:
        beyond = "" if kappa is None else f", κ = {words.number(kappa)}"
        return (
            f"they predict the same class on {percent(share)} of the test samples "
            f"({percent(chance)} by chance{beyond})"
        )
    correlation, control = at("correlation"), at("correlation", "random weights")
    if correlation is None:
        return "the outputs of one of them never change, so they cannot be correlated"
    beside = "" if control is None else f" ({words.number(control)} with random weights)"
    return f"their outputs correlate by {words.number(correlation)}{beside}"


def _pulled(run: SavedRun, other: str) -> list[str]:
    strengths = numbers.strengths(run, other)
    if len(strengths) < 2:
        return []
    control = numbers.route(run, other, "to other", stage="released")
    tried = f"pulls of {words.listed([f'{s:g}' for s in strengths[1:]])} were tried"
    left = numbers.way_left(run, other, strengths[-1])
    if left is not None and left > FAR:
        tried += (
            f" (under the strongest {percent(left)} of the way to it was left: more --epochs, or a "
            f"larger --lr, would go farther)"
        )
    without = f"trained on without a pull, {_rise(control)} on the line to it" if control else ""
    if control is not None and control.connected:
        return [f"{without}: it takes no pull to be connected with it"]
    if (found := numbers.reached(run, other)) is None:
        return [f"{tried}: none brings the first network to where it is connected; {without}"]
    strength, there, back = found
    own = (
        f"there it is connected with its own beginning, too ({_rise(back)}), so that a bent way "
        f"joins the two"
        if back.connected
        else f"there it has lost the connection with its own beginning ({_rise(back)})"
    )
    return [
        f"{tried}: from λ = {strength:g} on the first network stays connected with the other after "
        f"release ({_rise(there)}); {own}; {without}"
    ]


def _notes(run: SavedRun, others: list[str]) -> tuple[str, ...]:
    lines = [numbers.route(run, other, "matched") for other in others]
    if not any(lines):
        return ("CKA and agreement tell how alike functions are, not where the weights lie.",)
    by = (
        f"the training accuracy falls by at most {100 * POINTS:g} points"
        if any(line.accuracy is not None for line in lines if line)
        else f"the training loss rises by at most {percent(SHARE)} of its mean at the ends"
    )
    return (
        f"Linearly connected: on the straight line {by}. Curved ways are not looked for, and a "
        f"better matching may exist; so not to be connected is a weaker finding than to be.",
    )
