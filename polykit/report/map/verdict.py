"""The answer of a map in words."""

from __future__ import annotations

from polykit.report import words
from polykit.report.map import numbers
from polykit.report.map.figures import place, text
from polykit.report.map.numbers import Kind
from polykit.report.numbers import describe
from polykit.report.verdict import Verdict
from polykit.runtime.store import SavedRun

NOTE = (
    "Points are compared by their means over seeds; in brackets the smallest and the largest seed. "
    "The highest of many points is high in part by chance."
)


def verdict(run: SavedRun) -> Verdict:
    """Say where each statistic is highest and lowest, for every kind of network."""
    kinds, shown = numbers.kinds(run), numbers.shown(run)
    if not kinds:
        return Verdict("No point of the map is there yet.")
    parts = []
    for metric, statistic in shown:
        lines = [line for kind in kinds for line in _extremes(run, metric, statistic, kind)]
        if lines:
            parts.append((describe(run, metric, statistic).noun, tuple(lines)))
    lead = [line for m, s in shown[:1] for line in _extremes(run, m, s, kinds[0])]
    of = f"{words.capital(parts[0][0])}, {kinds[0].label} networks: " if parts else ""
    return Verdict(f"{of}{lead[0] if lead else 'nothing was measured'}.", tuple(parts), (NOTE,))


def _extremes(run: SavedRun, metric: str, statistic: str, kind: Kind) -> list[str]:
    """Where a statistic is highest and lowest; empty where no point has it."""
    found, at = numbers.values(run, metric, statistic, kind), numbers.points(run)
    if not found:
        return []
    means = {point: float(series.mean()) for point, series in found.items()}
    whose = "" if kind.pruner == numbers.DENSE else f"{kind.label}: "

    def end(mean: float) -> str:
        same = [point for point in found if means[point] == mean]
        if len(same) > 1:
            return f"{len(same)} of {len(found)} points, {words.number(mean)}"
        return f"{place(at[same[0]])}, {text(found[same[0]], ' ')}"

    low, high = min(means.values()), max(means.values())
    if low == high:
        return [f"{whose}at {end(low)}"]
    return [f"{whose}highest at {end(high)}; lowest at {end(low)}"]
