"""The answer of a run of `basis` in words."""

from __future__ import annotations

import pandas as pd

from polykit.report import words
from polykit.report.basis import numbers
from polykit.report.basis.numbers import BASES, ORIGINS, Ratio, State
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

NOTES = (
    "How many interactions count: exp(entropy) of the strengths of the edges. An "
    "edge's strength is the mean square of what one node adds to another, each scaled by how the "
    "outputs respond to it, so that bases can be compared.",
    "By chance: links of the same number and strength that lead to the same nodes, but begin at "
    "other links' nodes. Modularity beyond that is what speaks for modules. Ratios are geometric "
    "means over seeds; in brackets: 95\u00a0% t-intervals. Modules are told of at the first "
    "cutoff and resolution. Nothing is corrected for the number of comparisons.",
)


def verdict(run: SavedRun) -> Verdict:
    """Say whether the interaction basis is sparser and more modular than others, and since when."""
    trained = numbers.trained(run)
    state = trained or next(iter(numbers.states(run)), None)
    if state is None:
        return Verdict("No network has a graph, so this run has no answer.")
    parts = [
        (
            words.capital(one.label),
            tuple(_told(run, one, origin) for origin in numbers.origins(run)),
        )
        for one in numbers.states(run)
    ]
    missing = "" if trained else "No trained network has a graph. "
    return Verdict(missing + _answer(run, state), tuple(parts), NOTES)


def _answer(run: SavedRun, state: State) -> str:
    origin, setting = numbers.origins(run)[0], numbers.main_setting(run)
    lead, *others = numbers.bases(run)
    text = (
        f"In {state.label} networks, told {ORIGINS[origin]}, "
        f"{_mean(run, state, origin, lead, 'effective_edges')} interactions count {_place(lead)}"
    )
    ratios = {
        other: found
        for other in others
        if (found := numbers.ratio(*_edges(run, state, origin, lead, other))) is not None
    }
    if ratios:
        text += ": " + words.listed([f"{_times(r)} {_place(other)}" for other, r in ratios.items()])
    text += f"{_since(run, state, origin)}."
    excess = None if setting is None else numbers.excess(run, state, origin, lead, setting)
    if setting is None or excess is None:
        return f"{text} No edge is above the cutoff, so there are no modules."
    at = f"cutoff {setting[0]:g}, resolution {setting[1]:g}"
    end = "" if excess.clear and excess.mean > 0 else ", so no modules were found"
    if excess.n == 1:
        end = "; with one seed no modules are claimed"
    return f"{text} Modularity there beyond chance is {words.interval(excess)} ({at}){end}."


def _mean(run: SavedRun, state: State, origin: str, basis: str, statistic: str) -> str:
    found = numbers.values(run, state, origin, basis, statistic)
    return words.number(float(found.mean())) if len(found) else ""


def _since(run: SavedRun, state: State, origin: str) -> str:
    """Whether training has to do with it: the first ratio beside that in untrained networks."""
    lead, *others = numbers.bases(run)
    control = next((s for s in numbers.states(run) if s.stage == numbers.UNTRAINED), None)
    if control is None or control == state or not others:
        return ""
    before, after = (_edges(run, one, origin, lead, others[0]) for one in (control, state))
    found = numbers.ratio(*before)
    change = numbers.ratio(after[0] / after[1], before[0] / before[1])
    if found is None or change is None:
        return ""
    said = f"; in untrained networks it is {_times(found)} {_place(others[0])}"
    if change.n == 1:
        return f"{said}, and with one seed no effect of training is claimed"
    return f"{said}, which training {'changed' if change.clear else 'was not found to change'}"


def _place(basis: str) -> str:
    return "in the interaction basis" if basis == "interaction" else f"between {BASES[basis]}"


def _edges(
    run: SavedRun, state: State, origin: str, lead: str, other: str
) -> tuple[pd.Series[float], pd.Series[float]]:
    """How many interactions count in two bases, by seed."""
    ours, theirs = (
        numbers.values(run, state, origin, basis, "effective_edges") for basis in (lead, other)
    )
    return ours, theirs


def _times(found: Ratio) -> str:
    return f"{words.number(found.mean)}{_ends(found)} times as many as"


def _ends(found: Ratio) -> str:
    if found.n == 1:
        return ""
    return f" [{words.number(found.low)}, {words.number(found.high)}]"


def _modular(run: SavedRun, state: State, origin: str, setting: tuple[float, float]) -> str:
    found = {
        basis: value
        for basis in numbers.bases(run)
        if (value := numbers.excess(run, state, origin, basis, setting)) is not None
    }
    if not found:
        return "no edge is above the cutoff, so there are no modules"
    told = [f"{words.interval(value)} {_place(basis)}" for basis, value in found.items()]
    some = [basis for basis, value in found.items() if value.clear and value.mean > 0]
    head = "modularity beyond chance" if some else "no basis was found modular beyond chance"
    if all(value.n == 1 for value in found.values()):
        head = "modularity less that of rewired links, with one seed"
    return f"{head}: {words.listed(told)}"


def _told(run: SavedRun, state: State, origin: str) -> str:
    """One line about the graphs of a state from one origin."""
    counts = {b: _mean(run, state, origin, b, "effective_edges") for b in numbers.bases(run)}
    told = [f"{value} {_place(basis)}" for basis, value in counts.items() if value]
    if not told:
        return f"{ORIGINS[origin]}: no graph"
    text = f"{ORIGINS[origin]}: interactions that count are {words.listed(told)}"
    setting = numbers.main_setting(run)
    return text if setting is None else f"{text}; {_modular(run, state, origin, setting)}"
