"""What stands beside a figure of the laboratory, and its content for those who listen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd

from polykit.report import words
from polykit.report.laboratory.effects import PRUNED, UNPRUNED
from polykit.report.laboratory.findings import arm_mean, ratios
from polykit.report.laboratory.verdict import setting_words
from polykit.report.numbers import Quantity
from polykit.report.style import CONTROL, DENSE

NOISY = " The labels of this scenario are too noisy to say what pruning does."


def worlds(tables: Iterable[pd.DataFrame]) -> tuple[int, int]:
    """Return over how few and how many worlds the cells of some tables are means; 0, 0 if none."""
    counts = [
        int(count)
        for table in tables
        for count in table.groupby(level=["scenario", "dropout"]).count().to_numpy().ravel()
        if count
    ]
    return min(counts, default=0), max(counts, default=0)


def over(low: int, high: int, what: str) -> str:
    """Say over how many seeds something is a mean, and what its intervals are."""
    if high <= 1:
        return "One seed: no interval can be given."
    seeds = words.seeds(high) if low == high else f"{low} to {high} seeds (some are missing)"
    return f"Mean over {seeds}; {what} 95\u00a0% t-intervals, cut off at the frame."


def arms_caption(
    tables: Sequence[pd.DataFrame], there: Collection[str], units: int, noisy: bool
) -> str:
    """Explain a figure of arms against the pruning ratio; `there` are the arms in it.

    `units` are those of a network before pruning, 0 if not known.
    """
    text = over(*worlds(tables), "bars and grey band are")
    text += f" n = {units} units in each network before pruning." if units else ""
    greys = []
    if DENSE in there:
        greys.append("grey line: the dense networks before any retraining")
    if UNPRUNED in there:
        greys.append("dotted: the dense networks retrained without pruning, the no-prune control")
    text += f" {words.capital('; '.join(greys))}." if greys else ""
    text += " Dashed: random units removed, the control." if CONTROL in there else ""
    return text + (NOISY if noisy else "")


def curves(table: pd.DataFrame) -> str:
    """Explain the training curves."""
    counts = table.groupby(["scenario", "dropout", "epoch"])["seed"].nunique()
    each = " Each panel has its own scale."
    return over(int(counts.min()), int(counts.max()), "bands are") + each


def both_ends(
    values: pd.DataFrame, scenario: str, shares: Sequence[float], quantity: Quantity
) -> str:
    """Tell a chart against the pruning ratio by its ends."""
    told = [_ends(values, scenario, share) for share in shares]
    return f"Line chart of {quantity.axis} against pruning ratio. {' '.join(told)}"


def layers(tables: Mapping[str, pd.DataFrame], scenario: str, shares: Sequence[float]) -> str:
    """Tell a chart of layers by the ends in each layer."""
    told = [
        f"Layer {layer}: {_ends(table, scenario, share)}"
        for layer, table in tables.items()
        for share in shares
    ]
    return f"Line charts of {len(tables)} layers. {' '.join(told)}"


def _ends(values: pd.DataFrame, scenario: str, dropout: float) -> str:
    parts = []
    for arm, name in ((DENSE, "dense"), (UNPRUNED, "retrained without pruning")):
        value = arm_mean(values, scenario, dropout, arm, 0.0)
        if value is not None:
            parts.append(f"{name} {words.number(value)}")
    for arm in (PRUNED, CONTROL, "scratch"):
        there = ratios(values, arm)
        ends = [
            f"{words.number(value)} at {ratio:g}"
            for ratio in dict.fromkeys([*there[:1], *there[-1:]])
            if (value := arm_mean(values, scenario, dropout, arm, ratio)) is not None
        ]
        if ends:
            parts.append(f"{arm} {' and '.join(ends)}")
    return f"{words.capital(setting_words(dropout))}: {', '.join(parts) or 'no values'}."
