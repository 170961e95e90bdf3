"""Runs that are there: to open, look at, plot and report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from polykit.errors import RunError
from polykit.report.page import write_report as write_page
from polykit.report.reports import draw_all, summary, verdict
from polykit.report.verdict import Verdict
from polykit.runtime.store import RunStore, SavedRun


@dataclass(frozen=True)
class Run:
    """A run directory, to look at. Tables are read when asked for."""

    path: Path

    @cached_property
    def saved(self) -> SavedRun:
        """The whole run in memory; raises RunError if it is unfinished or damaged."""
        return RunStore.open(self.path).load()

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of `run.json`: configuration, plugins, environment, cells, notices."""
        return RunStore.open(self.path).meta

    @property
    def status(self) -> str:
        """complete, failed, interrupted, or running."""
        return str(self.meta["status"])

    @property
    def failures(self) -> dict[str, str]:
        """Cells that failed, with the message."""
        return dict(self.meta.get("failures", {}))

    @property
    def notices(self) -> list[str]:
        """What a reader should know before believing the numbers."""
        return list(self.meta.get("notices", []))

    @property
    def rows(self) -> pd.DataFrame:
        """Tidy results: one row per network, stage or ratio, metric, layer and statistic."""
        return self.saved.rows

    @property
    def units(self) -> pd.DataFrame:
        """Tidy results per unit."""
        return self._table("units")

    @property
    def history(self) -> pd.DataFrame:
        """Training curves."""
        return self._table("history")

    @property
    def epochs(self) -> pd.DataFrame:
        """Headlines after each epoch, of the metrics that were tracked."""
        return self._table("epochs")

    def _table(self, name: str) -> pd.DataFrame:
        tables = self.saved.tables
        if name not in tables:
            raise RunError(
                f"a run of the workflow {self.meta['workflow']} has no table {name!r}; it has "
                f"{', '.join(tables)}"
            )
        return tables[name]

    def summary(self) -> pd.DataFrame:
        """Return the numbers the run was made for.

        Of an analysis: mean and sd over seeds of each metric's headline, by pruner, density and
        stage. Of a laboratory: every effect with interval and p-values, by scenario and dropout.
        """
        return summary(self.saved)

    def verdict(self) -> Verdict:
        """Say in words what the run found."""
        return verdict(self.saved)

    def plot(self) -> dict[str, Figure]:
        """Draw every figure of the report: name → matplotlib figure."""
        return {drawn.name: drawn.figure for drawn in draw_all(self.saved)}

    def report(self) -> Path:
        """Write `report.html` and the figures; return the page."""
        return write_page(self.saved)

    def _repr_html_(self) -> str:
        lead = escape(self.verdict().answer)
        table = self.summary().to_html(float_format="{:.3g}".format, na_rep="–")
        return f"<p><b>{escape(str(self.path))}</b>: {self.status}. {lead}</p>{table}"


def open_run(path: Path) -> Run:
    """Open a run directory; raise RunError if it is not one."""
    return Run(RunStore.open(path).path)


def list_runs(runs_dir: Path) -> list[Run]:
    """Return the runs in a folder, by name."""
    if not runs_dir.is_dir():
        return []
    return [Run(path.parent) for path in sorted(runs_dir.glob("*/run.json"))]


def write_report(path: Path) -> Path:
    """Write a saved run's figures and `report.html`; return the page."""
    return open_run(path).report()
