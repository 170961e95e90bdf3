"""The answer in words, with the number, its interval and the control beside it."""

from __future__ import annotations

from collections.abc import Sequence

from polykit.report import words
from polykit.report.analyze import numbers
from polykit.report.analyze.numbers import Comparison, stage_words
from polykit.report.numbers import Estimate, Quantity
from polykit.report.style import CONTROL
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

_MUCH_SILENCE = 0.05
_NAMED = 3  # how many pruners the answer names; more would bury it


def verdict(run: SavedRun) -> Verdict:
    """Say what a run found. Pure: from the run's tables only."""
    performance = numbers.task(run)
    asked = [*numbers.headlines(run), *([performance] if performance else [])]
    found = {quantity: numbers.compare(run, quantity) for quantity in asked}
    lead = next((comparisons for comparisons in found.values() if comparisons), None)
    if lead is None:
        return Verdict("Nothing was measured after pruning, so this run has no answer yet.")
    about = []
    for name in numbers.pruners(run):
        lines = _performance(run, name, found[performance]) if performance else []
        for quantity in asked:
            if quantity != performance:
                lines += _headline(run, name, quantity, found[quantity])
        about.append((name, tuple(lines)))
    everything = [c for comparisons in found.values() for c in comparisons]
    notes = [*(_leaders(run, found[performance]) if performance else []), *_manner(everything)]
    return Verdict(_answer(run, lead), tuple(about), tuple(notes))


def difference(found: Estimate) -> str:
    """Say whether a difference is there.

    >>> difference(Estimate(-0.5, 3, 0.2))
    '−0.50 [−0.70, −0.30]'
    >>> difference(Estimate(-0.1, 3, 0.2))
    'no difference found at this power (3 seeds): −0.10 [−0.30, 0.10]'
    >>> difference(Estimate(-0.1, 1))
    '−0.100 (one seed: no interval can be given)'
    """
    text = words.interval(found)
    if found.half is None:
        return f"{text} (one seed: no interval can be given)"
    if found.clear:
        return text
    return f"no difference found at this power ({words.seeds(found.n)}): {text}"


def _answer(run: SavedRun, found: Sequence[Comparison]) -> str:
    """Tell the last stage at its lowest density: the changes from dense, then who is not random."""
    found = [c for c in found if c.stage == found[-1].stage]
    density = min(c.density for c in found)
    here = [c for c in found if c.density == density]
    quantity, stage = here[0].quantity, stage_words(run.meta)[here[0].stage]
    where = f"At density {density:g}, {stage}, {quantity.noun}"
    dense, named = _dense(run, quantity), _furthest(here)
    moved: list[str] = []
    for c in named:
        name = "" if moved else "95\u00a0% interval "
        if c.change:
            moved.append(f"{words.interval(c.change, name)} with {_called(c.pruner)}")
    if moved and dense is not None:
        unit = f" {quantity.unit}" if quantity.unit else ""
        start = f"{where} changed from {words.number(dense)}{unit} in the dense network by"
        first = f"{start} {words.listed(moved)}{_others(here, named)}."
    else:
        values = [f"{words.number(c.value.mean)} with {_called(c.pruner)}" for c in named]
        first = f"{where} is {words.listed(values)}; no dense network is there to compare."
    missing = [name for name in numbers.pruners(run) if name not in {c.pruner for c in here}]
    without = f" No value there for {words.listed(missing)}." if missing else ""
    if density > numbers.densities(run)[-1]:
        without += f" Below density {density:g} it has no value."
    return f"{first} {_against_control(here)}{without}"


def _furthest(here: Sequence[Comparison]) -> list[Comparison]:
    """The pruners that an answer has room for: those furthest from random, and the control."""
    others = [c for c in here if c.pruner != CONTROL]
    distance = {c.pruner: abs(d.mean) for c in others if (d := c.control or c.change)}
    kept = sorted(others, key=lambda c: -distance.get(c.pruner, 0.0))[:_NAMED]
    return [c for c in here if c in kept or c.pruner == CONTROL]


def _others(here: Sequence[Comparison], named: Sequence[Comparison]) -> str:
    left = len(here) - len(named)
    return f" (the other {left} pruners are below)" if left else ""


def _called(pruner: str) -> str:
    return "random pruning, the control" if pruner == CONTROL else pruner


def _against_control(here: Sequence[Comparison]) -> str:
    told = [(c.pruner, c.control) for c in here if c.control]
    if not told:
        return (
            "No pruner has random pruning beside it here, so this cannot be told from the mere "
            "loss of weights."
        )
    if any(control.half is None for _, control in told):
        return "With one seed no interval can be given, so no difference from random is claimed."
    parts = [f"{name} {words.interval(control)}" for name, control in told if control.clear]
    unclear = [(name, control) for name, control in told if not control.clear]
    if unclear:
        power = words.seeds(min(control.n for _, control in unclear))
        names = words.listed([name for name, _ in unclear])
        if len(unclear) > _NAMED:
            names = f"{'the other ' if parts else ''}{len(unclear)} pruners"
        parts.append(f"no difference from random found at this power ({power}) for {names}")
    return f"Compared with random pruning: {'; '.join(parts)}."


def _performance(run: SavedRun, name: str, found: Sequence[Comparison]) -> list[str]:
    """Tell how well the pruned network works at the lowest density, dense and random beside it."""
    density, titles = numbers.densities(run)[-1], stage_words(run.meta)
    here = [c for c in found if c.density == density]
    mine = [c for c in here if c.pruner == name]
    if not mine:
        return [f"No accuracy or loss at density {density:g}: its cells failed or are missing."]
    quantity, values = mine[0].quantity, []
    for c in mine:
        random = [o for o in here if o.pruner == CONTROL != name and o.stage == c.stage]
        beside = "".join(f" (random {words.number(o.value.mean)})" for o in random)
        values.append(f"{titles[c.stage]} {words.number(c.value.mean)}{beside}")
    dense = _dense(run, quantity)
    start = f"; dense {words.number(dense)}" if dense is not None else ""
    lines = [f"{words.capital(quantity.noun)} at density {density:g}: {'; '.join(values)}{start}."]
    told = [f"{titles[c.stage]} {difference(c.control)}" for c in mine if c.control]
    if told:
        lines.append(f"Difference to random in {quantity.noun}: {'; '.join(told)}.")
    return lines


def _headline(
    run: SavedRun, name: str, quantity: Quantity, found: Sequence[Comparison]
) -> list[str]:
    """Tell what a pruner did to a headline: lowest density first, then where it differs."""
    density, stage = numbers.densities(run)[-1], numbers.stages(run)[-1]
    titles = stage_words(run.meta)
    mine = [c for c in found if c.pruner == name]
    here = [c for c in mine if (c.density, c.stage) == (density, stage)]
    where = f"{words.capital(quantity.noun)} at density {density:g}, {titles[stage]}"
    lines = []
    for c in here:
        change = f"; change from dense: {difference(c.change)}" if c.change else ""
        control = f"; difference to random: {difference(c.control)}" if c.control else ""
        lines.append(f"{where}: {words.number(c.value.mean)}{change}{control}.")
    if not here:
        lines.append(f"{where}: no value.")
    for part in numbers.stages(run):
        measured = [c for c in mine if c.stage == part and c.change and c.change.half is not None]
        if len(measured) > 1:
            dense = _places([c.density for c in measured if c.change and c.change.clear])
            random = _places([c.density for c in measured if c.control and c.control.clear])
            beside = f", from random at {random}" if any(c.control for c in measured) else ""
            lines.append(
                f"{words.capital(titles[part])}, {quantity.metric} differs from dense at "
                f"{dense}{beside}."
            )
    silent = numbers.network_mean(run, quantity.metric, "silent", (name, density, stage)) or 0.0
    if silent > _MUCH_SILENCE:
        dense_network = numbers.DENSE_NETWORK
        before = numbers.network_mean(run, quantity.metric, "silent", dense_network) or 0.0
        lines.append(
            f"{100 * silent:.0f}\u00a0% of its units are silent there (dense: "
            f"{100 * before:.0f}\u00a0%), which moves a mean over units by itself."
        )
    return lines


def _places(densities: Sequence[float]) -> str:
    if not densities:
        return "no density"
    return f"densit{'y' if len(densities) == 1 else 'ies'} " + words.listed(
        [f"{density:g}" for density in densities]
    )


def _leaders(run: SavedRun, found: Sequence[Comparison]) -> list[str]:
    """Tell per stage which pruner works best at which density: they may change places."""
    lines = []
    sign, kind = (-1, "Lowest") if found and found[0].quantity.metric == "loss" else (1, "Highest")
    for stage, title in stage_words(run.meta).items():
        best: dict[str, list[str]] = {}
        for density in numbers.densities(run):
            here = [c for c in found if (c.stage, c.density) == (stage, density)]
            if len(here) > 1:
                top = max(here, key=lambda c: sign * c.value.mean)
                place = f"{density:g} ({words.number(top.value.mean)})"
                best.setdefault(top.pruner, []).append(place)
        if best:
            told = [f"{name} at density {words.listed(places)}" for name, places in best.items()]
            lines.append(f"{kind} mean {found[0].quantity.noun} {title}: {'; '.join(told)}.")
    return lines


def _manner(found: Sequence[Comparison]) -> list[str]:
    """Say how the intervals were made and how many there are: some exclude 0 by chance."""
    made = [d for c in found for d in (c.change, c.control) if d is not None]
    intervals = [d for d in made if d.half is not None]
    if not intervals:
        return ["One seed: no interval can be given. Run more seeds to tell effect from chance."]
    low, high = min(d.n for d in intervals), max(d.n for d in intervals)
    over = words.seeds(high) if low == high else f"{low} to {high} seeds"
    return [
        f"Brackets: two-sided 95\u00a0% t-intervals of differences paired by seed, over {over}.",
        f"The {len(intervals)} intervals are not corrected for their number; where nothing "
        "differs, about one in twenty still excludes 0.",
    ]


def _dense(run: SavedRun, quantity: Quantity) -> float | None:
    network = numbers.DENSE_NETWORK
    return numbers.network_mean(run, quantity.metric, quantity.statistic, network)
