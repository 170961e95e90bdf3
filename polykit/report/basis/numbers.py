"""What a run of `basis` found, as numbers: graphs by state, origin and basis; ratios; modules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from polykit.report.numbers import Estimate, estimate, paired
from polykit.report.style import DENSE
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS

UNTRAINED = "untrained"

BASES = {"interaction": "interaction basis", "neuron": "neurons", "pca": "principal axes"}
"""What to call a basis in a sentence."""

ORIGINS = {"zero": "from zero", "mean": "from the mean"}


@dataclass(frozen=True)
class State:
    """A state of the networks: what pruned them, to which density, and when they were looked at."""

    pruner: str
    density: float
    stage: str

    @property
    def label(self) -> str:
        """What to call it."""
        if self.pruner == DENSE:
            return UNTRAINED if self.stage == UNTRAINED else "trained"
        after = "" if self.stage == "pruned" else f", {self.stage}"
        return f"{self.pruner} {self.density:g}{after}"

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table that are about the state."""
        same = (table["pruner"] == self.pruner) & (table["density"] == self.density)
        return table[same & (table["stage"] == self.stage)]


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios over seeds, and its interval if there are several."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether there is an interval and it excludes 1."""
        return self.n > 1 and not self.low <= 1.0 <= self.high


def states(run: SavedRun) -> list[State]:
    """Return the states that have graphs: untrained, trained, then pruned ones as in the run."""
    found = run.tables["graphs"][["pruner", "density", "stage"]].drop_duplicates()
    every = [State(str(p), float(d), str(s)) for p, d, s in found.itertuples(index=False)]
    first = {UNTRAINED: 0, DENSE: 1}
    return sorted(every, key=lambda state: first.get(state.stage, 2))


def trained(run: SavedRun) -> State | None:
    """Return the state of the dense networks; None where no cell of theirs is there."""
    return next((state for state in states(run) if state.stage == DENSE), None)


def bases(run: SavedRun) -> list[str]:
    """Return the bases of the run's graphs, the interaction basis first."""
    return sorted(run.tables["graphs"]["basis"].unique(), key=list(BASES).index)


def origins(run: SavedRun) -> list[str]:
    """Return the origins of the run's graphs, in the order asked for."""
    return [str(origin) for origin in run.tables["graphs"]["origin"].unique()]


def values(
    run: SavedRun, state: State, origin: str, basis: str, statistic: str, layer: str = ALL_LAYERS
) -> pd.Series[float]:
    """Return one statistic of a graph, by seed."""
    table = state.of(run.tables["graphs"])
    chosen = (table["origin"] == origin) & (table["basis"] == basis) & (table["layer"] == layer)
    return table[chosen & (table["statistic"] == statistic)].set_index("seed")["value"]


def ratio(ours: pd.Series[float], theirs: pd.Series[float]) -> Ratio | None:
    """Return ours / theirs over the seeds where both are above 0; None if there are none.

    The interval is the t-interval of the logarithms.

    >>> ratio(pd.Series([2.0, 8.0]), pd.Series([1.0, 1.0])).mean
    4.0
    """
    logs = paired(_logs(ours), _logs(theirs))
    if logs is None:
        return None
    return Ratio(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)


def _logs(values: pd.Series[float]) -> pd.Series[float]:
    logs: pd.Series[float] = values.where(values > 0).map(np.log)
    return logs


def main_setting(run: SavedRun) -> tuple[float, float] | None:
    """Return the cutoff and resolution that are drawn and told of: the first; None of none."""
    table = run.tables["modules"]
    if table.empty:
        return None
    config = run.meta.get("config") or {}
    cutoffs, resolutions = config.get("cutoffs"), config.get("resolutions")
    first = table.iloc[0]
    return (
        float(cutoffs[0] if cutoffs else first["cutoff"]),
        float(resolutions[0] if resolutions else first["resolution"]),
    )


def modules(
    run: SavedRun, state: State, origin: str, basis: str, setting: tuple[float, float]
) -> pd.DataFrame:
    """Return what was found at one cutoff and resolution, a row per seed."""
    table = state.of(run.tables["modules"])
    chosen = (table["origin"] == origin) & (table["basis"] == basis)
    cutoff, resolution = setting
    same = (table["cutoff"] == cutoff) & (table["resolution"] == resolution)
    return table[chosen & same].set_index("seed")


def excess(
    run: SavedRun, state: State, origin: str, basis: str, setting: tuple[float, float]
) -> Estimate | None:
    """Return modularity less that of rewired links, over seeds; None where there are no links."""
    found = modules(run, state, origin, basis, setting)
    return estimate(found["modularity"] - found["chance_modularity"]) if len(found) else None


def graphs(run: SavedRun) -> Iterator[tuple[State, str, str]]:
    """Yield every graph's state, origin and basis."""
    for state in states(run):
        for origin in origins(run):
            for basis in bases(run):
                if len(values(run, state, origin, basis, "effective_edges")):
                    yield state, origin, basis


def summary(run: SavedRun) -> pd.DataFrame:
    """Return means over seeds, a row per state, origin and basis; modules at the first setting."""
    setting, rows = main_setting(run), []
    for state, origin, basis in graphs(run):
        row: dict[str, object] = {"state": state.label, "origin": origin, "basis": basis}
        for statistic in ("nodes", "effective_edges", "effective_inputs"):
            row[statistic] = float(values(run, state, origin, basis, statistic).mean())
        if setting is not None:
            found = modules(run, state, origin, basis, setting)
            for column in ("edges", "modules", "modularity", "chance_modularity", "between"):
                row[column] = float(found[column].mean()) if len(found) else math.nan
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.set_index(["state", "origin", "basis"]) if rows else frame
