"""The numbers of a dissection: each pruner's parts of a unit, beside what controls came to.

A unit's numbers are those of its worst cluster: a unit is cut apart only if every part is good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.runtime.clusters.specificity import ownership
from polykit.runtime.store import SavedRun

OWN = "own"
CONTROLS = {
    "unit": "other units",
    "weights": "random weights",
    "labels": "shuffled labels",
}
"""The controls, by their names in the tables and in words."""

PLACE = ["unit", "pruner", "density", "control", "read_unit"]

SEPARATED = 0.75
"""AUC that the lower end of the interval must reach for clusters to count as told apart."""

SPECIFIC = 0.8
DISSOCIATED = 0.1
"""What specificity and dissociation must reach for a part to count as the unit's own.

With planted units (benchmarks/check_specificity.py) they accept three quarters or more of those
with two paths, by pruner, and 3 to 10 % of the others."""

MOST = 0.25
"""Share of controls from which on a score that they reach, too, proves nothing."""


@dataclass(frozen=True)
class Score:
    """A score of the worst cluster, with its interval over pictures; ends are NaN if unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Trial:
    """The parts of all clusters of a unit, sought in one place (`read`) by one pruner."""

    control: str
    read: str
    auc: Score
    fidelity: Score
    specificity: Score
    dissociation: float

    @property
    def separated(self) -> bool:
        """Whether the masked unit tells every cluster from the others."""
        return self.auc.low >= SEPARATED

    @property
    def ownership(self) -> float:
        """How far the parts are the unit's own, in [−1, 1]."""
        return ownership(self.specificity.value, self.dissociation)

    @property
    def own_parts(self) -> bool:
        """Whether every part is what the unit itself is made of, and not a detector."""
        return self.specificity.value >= SPECIFIC and self.dissociation >= DISSOCIATED


@dataclass(frozen=True)
class Finding:
    """What one pruner at one density (1: it chose) found in a unit, and in the controls."""

    unit: str
    pruner: str
    density: float
    achieved: float
    effective: float
    pictures: int
    auc_before: float
    auc_random: Score
    drift: float
    own: Trial
    controls: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """The pruner, with the density if one was asked for."""
        return self.pruner if self.density == 1 else f"{self.pruner} at density {self.density:g}"

    @property
    def rivals(self) -> tuple[Trial, ...]:
        """The controls that have what the unit has but the unit itself."""
        return tuple(trial for trial in self.controls if trial.control != "labels")

    def of(self, control: str) -> list[Trial]:
        """The controls of one kind."""
        return [trial for trial in self.controls if trial.control == control]

    @property
    def different_parts(self) -> bool:
        """Whether the unit's parts are its own, and such are seldom found in the controls."""
        found = sum(trial.own_parts for trial in self.rivals)
        return self.own.separated and self.own.own_parts and found <= MOST * len(self.rivals)

    @property
    def made(self) -> bool:
        """Whether the clusters come apart, but do so in half of the controls, too."""
        rivals = self.rivals
        apart = sum(trial.separated for trial in rivals)
        return self.own.separated and bool(rivals) and 2 * apart >= len(rivals)


def wide(run: SavedRun) -> pd.DataFrame:
    """Return one row per part, statistics as columns, in order of the run."""
    rows = run.rows
    places = [*PLACE, "cluster"]
    table = rows.pivot_table(index=places, columns="statistic", values="value", sort=False)
    return table.rename_axis(columns=None)


def units(run: SavedRun) -> list[str]:
    """Return the units that were dissected, in order."""
    return list(dict.fromkeys(str(unit) for unit in run.rows["unit"]))


def findings(run: SavedRun) -> list[Finding]:
    """Return what each pruner found in each unit; without those whose own parts are missing."""
    if run.rows.empty:
        return []
    table = wide(run).reset_index()
    found = []
    for (unit, pruner, density), part in table.groupby(PLACE[:3], sort=False):
        trials = [
            _trial(str(control), str(read), rows)
            for (control, read), rows in part.groupby(PLACE[3:], sort=False)
        ]
        own = [trial for trial in trials if trial.control == OWN]
        if own:
            rows = part[part["control"] == OWN]
            found.append(
                _finding(
                    (str(unit), str(pruner), float(density)),  # type: ignore[arg-type]
                    rows,
                    own[0],
                    [trial for trial in trials if trial.control != OWN],
                )
            )
    return found


def _trial(control: str, read: str, rows: pd.DataFrame) -> Trial:
    return Trial(
        control,
        read,
        _worst(rows, "auc"),
        _worst(rows, "fidelity"),
        _worst(rows, "specificity"),
        float(rows["dissociation"].min()),
    )


def _finding(
    place: tuple[str, str, float], rows: pd.DataFrame, own: Trial, controls: Sequence[Trial]
) -> Finding:
    unit, pruner, density = place
    return Finding(
        unit=unit,
        pruner=pruner,
        density=density,
        achieved=float(rows["achieved_density"].mean()),
        effective=float(rows["effective_density"].mean()),
        pictures=int(rows["pictures_held_out"].min()),
        auc_before=float(rows["auc_before"].min()),
        auc_random=_worst(rows, "auc_random"),
        drift=float(rows["drift_rms"].max()) if "drift_rms" in rows else math.nan,
        own=own,
        controls=tuple(controls),
    )


def _worst(rows: pd.DataFrame, name: str) -> Score:
    """The score of the cluster that has the lowest."""
    if name not in rows or rows[name].isna().all():
        return Score(math.nan)
    place = int(rows[name].argmin())
    names = [name, f"{name}_low", f"{name}_high"]
    return Score(*(float(rows[n].iloc[place]) if n in rows else math.nan for n in names))


def summary(run: SavedRun) -> pd.DataFrame:
    """Return what each pruner found, by unit, pruner and density; of the worst cluster.

    Columns: density kept and what of it works; AUC of the dense unit, of the masked one, and of
    the controls (mean); fidelity, specificity and dissociation, and the best specificity among
    other units and random weights; ownership.
    """
    rows: list[dict[str, Any]] = []
    for found in findings(run):
        rivals = [trial.specificity.value for trial in found.rivals]
        rows.append(
            {
                "unit": found.unit,
                "pruner": found.pruner,
                "density": found.density,
                "kept": found.achieved,
                "effective": found.effective,
                "AUC before": found.auc_before,
                "AUC": found.own.auc.value,
                **{f"AUC {words}": _mean(found.of(name)) for name, words in CONTROLS.items()},
                "AUC random masks": found.auc_random.value,
                "fidelity": found.own.fidelity.value,
                "specificity": found.own.specificity.value,
                "best control": max(rivals, default=math.nan),
                "dissociation": found.own.dissociation,
                "ownership": found.own.ownership,
            }
        )
    columns = ["unit", "pruner", "density"]
    if not rows:
        return pd.DataFrame(columns=columns).set_index(columns)
    return pd.DataFrame(rows).set_index(columns)


def _mean(trials: Sequence[Trial]) -> float:
    values = [trial.auc.value for trial in trials]
    return sum(values) / len(values) if values else math.nan
