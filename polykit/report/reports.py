"""Which report belongs to which workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from polykit.errors import RunError
from polykit.report.analyze import content as analyze_content
from polykit.report.analyze import figures as analyze_figures
from polykit.report.analyze import numbers as analyze_numbers
from polykit.report.analyze import verdict as analyze_verdict
from polykit.report.basis import content as basis_content
from polykit.report.basis import figures as basis_figures
from polykit.report.basis import numbers as basis_numbers
from polykit.report.basis import verdict as basis_verdict
from polykit.report.clusters import content as clusters_content
from polykit.report.clusters import figures as clusters_figures
from polykit.report.clusters import numbers as clusters_numbers
from polykit.report.clusters import verdict as clusters_verdict
from polykit.report.compare import content as compare_content
from polykit.report.compare import figures as compare_figures
from polykit.report.compare import numbers as compare_numbers
from polykit.report.compare import verdict as compare_verdict
from polykit.report.density import content as density_content
from polykit.report.density import figures as density_figures
from polykit.report.density import numbers as density_numbers
from polykit.report.density import verdict as density_verdict
from polykit.report.dissect import content as dissect_content
from polykit.report.dissect import gallery as dissect_gallery
from polykit.report.dissect import numbers as dissect_numbers
from polykit.report.dissect import verdict as dissect_verdict
from polykit.report.drawing import Drawn
from polykit.report.laboratory import content as laboratory_content
from polykit.report.laboratory import figures as laboratory_figures
from polykit.report.laboratory import findings as laboratory_findings
from polykit.report.laboratory import verdict as laboratory_verdict
from polykit.report.map import content as map_content
from polykit.report.map import figures as map_figures
from polykit.report.map import numbers as map_numbers
from polykit.report.map import verdict as map_verdict
from polykit.report.verdict import Verdict
from polykit.report.visualize import content as visualize_content
from polykit.report.visualize import numbers as visualize_numbers
from polykit.report.visualize import verdict as visualize_verdict
from polykit.runtime.store import SavedRun


class Content(Protocol):
    """What a page says beside verdict and figures; its template knows what else it holds."""

    @property
    def title(self) -> str:
        """The question or the deed, for the head of the page."""

    @property
    def facts(self) -> Sequence[tuple[str, str]]:
        """What was run, at a glance."""


@dataclass(frozen=True)
class Report:
    """A workflow's report: its numbers, figures and answer, and the content of its page.

    All are pure functions of the saved run, and hold for one with cells missing.
    """

    summary: Callable[[SavedRun], pd.DataFrame]
    draw_all: Callable[[SavedRun], list[Drawn]]
    verdict: Callable[[SavedRun], Verdict]
    content: Callable[[SavedRun], Content]
    template: str


REPORTS: Mapping[str, Report] = {
    "analyze": Report(
        analyze_numbers.summary,
        analyze_figures.draw_all,
        analyze_verdict.verdict,
        analyze_content.content,
        "analyze.html.j2",
    ),
    "laboratory": Report(
        laboratory_findings.summary,
        laboratory_figures.draw_all,
        laboratory_verdict.verdict,
        laboratory_content.content,
        "laboratory.html.j2",
    ),
    "density": Report(
        density_numbers.summary,
        density_figures.draw_all,
        density_verdict.verdict,
        density_content.content,
        "density.html.j2",
    ),
    "basis": Report(
        basis_numbers.summary,
        basis_figures.draw_all,
        basis_verdict.verdict,
        basis_content.content,
        "basis.html.j2",
    ),
    "clusters": Report(
        clusters_numbers.summary,
        clusters_figures.draw_all,
        clusters_verdict.verdict,
        clusters_content.content,
        "clusters.html.j2",
    ),
    "dissect": Report(
        dissect_numbers.summary,
        dissect_gallery.draw_all,
        dissect_verdict.verdict,
        dissect_content.content,
        "dissect.html.j2",
    ),
    "compare": Report(
        compare_numbers.summary,
        compare_figures.draw_all,
        compare_verdict.verdict,
        compare_content.content,
        "compare.html.j2",
    ),
    "map": Report(
        map_numbers.summary,
        map_figures.draw_all,
        map_verdict.verdict,
        map_content.content,
        "map.html.j2",
    ),
    "visualize": Report(
        visualize_numbers.summary,
        visualize_content.draw_all,
        visualize_verdict.verdict,
        visualize_content.content,
        "visualize.html.j2",
    ),
}


def report_of(run: SavedRun) -> Report:
    """Return the report of a run's workflow; raise RunError for a workflow that has none.

    A run that does not name its workflow is one of `analyze`.
    """
    name = str(run.meta.get("workflow") or "analyze")
    if name not in REPORTS:
        raise RunError(
            f"{run.path} is a run of the workflow {name!r}, which has no report here "
            f"(there is one for {', '.join(REPORTS)}); update polykit"
        )
    return REPORTS[name]


def draw_all(run: SavedRun) -> list[Drawn]:
    """Draw every figure that the run has the numbers for; an empty run has none."""
    return report_of(run).draw_all(run)


def verdict(run: SavedRun) -> Verdict:
    """Say what a run found. Pure: from the run's tables only."""
    return report_of(run).verdict(run)


def summary(run: SavedRun) -> pd.DataFrame:
    """Return the numbers a run was made for, one row per network or effect."""
    return report_of(run).summary(run)
