"""The answer of a density study in words."""

from __future__ import annotations

from polykit.report import words
from polykit.report.density import numbers
from polykit.report.density.numbers import Width
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun


def verdict(run: SavedRun) -> Verdict:
    """Say how dense the networks are at each width, and whether the core grows."""
    found = numbers.widths(run)
    if not found:
        return Verdict("No network crossed the threshold, so this run has no effective density.")
    parts = []
    for pruner, optimizer, table in numbers.studies(run):
        rows = [w for w in found if (w.pruner, w.optimizer) == (pruner, optimizer)]
        lines = [*map(_width, rows), *_growth(rows, numbers.anova(table))]
        parts.append((f"{pruner}, {optimizer}", tuple(lines)))
    lost = int(run.tables["effective"]["density"].isna().sum())
    notes = [
        "Effective density: the share of weights left at the first step that crosses the "
        "threshold; the core is their number. Nothing is retrained. In brackets: 95\u00a0% "
        "t-interval.",
        *([f"{lost} networks never crossed the threshold and are left out."] if lost else []),
    ]
    return Verdict(_answer(found, len(parts) > 1), tuple(parts), tuple(notes))


def percent(value: float) -> str:
    r"""Write a share as a percentage.

    >>> percent(0.7061)
    '70.6\xa0%'
    """
    return f"{100 * value:.1f}\u00a0%"


def _answer(found: list[Width], several: bool) -> str:
    lead = [w for w in found if (w.pruner, w.optimizer) == (found[0].pruner, found[0].optimizer)]
    first, last = lead[0], lead[-1]
    whose = f" (by {first.pruner}, {first.optimizer})" if several else ""
    if first is last:
        return (
            f"The networks of scale {first.scale:g} need {percent(first.density.mean)} of their "
            f"weights{whose}."
        )
    text = (
        f"From scale {first.scale:g} to {last.scale:g} the effective density goes from "
        f"{percent(first.density.mean)} to {percent(last.density.mean)}{whose}, while the weights "
        f"grow {last.parameters / first.parameters:.3g}-fold and the core "
        f"{last.core.mean / first.core.mean:.3g}-fold."
    )
    if last.null is not None:
        text += (
            f" If the core did not grow with the width, the density at scale {last.scale:g} would "
            f"be {percent(last.null)}."
        )
    return text


def _width(w: Width) -> str:
    between = (
        f" [{percent(w.density.low)}, {percent(w.density.high)}]"
        if w.density.half is not None
        else ""
    )
    text = (
        f"scale {w.scale:g}: {percent(w.density.mean)}{between} of {w.parameters:,} weights "
        f"({w.density.n} network{'' if w.density.n == 1 else 's'})"
    )
    if w.null is not None:
        text += f"; null hypothesis {percent(w.null)}"
    return text + (f", t-test {words.chance(w.p)}" if w.p is not None else "")


def _growth(rows: list[Width], p: float | None) -> list[str]:
    if len(rows) < 2:
        return []
    if p is None:
        return ["too few networks of a width for an analysis of variance of the core sizes"]
    differ = "differ" if p < 0.05 else "were not found to differ"
    return [f"core sizes {differ} between widths (one-way ANOVA, {words.chance(p)})"]
