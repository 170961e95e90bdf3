"""What the page of a laboratory run says beside its verdict and figures."""

from __future__ import annotations

from dataclasses import dataclass

from polykit.report.laboratory.effects import PRUNED
from polykit.report.laboratory.findings import Findings, arms, findings, ratios
from polykit.report.laboratory.tables import overall_tables, scenario_tables
from polykit.report.laboratory.verdict import OVER_ALL
from polykit.report.tables import Table
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class Scenario:
    """A scenario's part of the page: its name as in the tables, a description, and its tables."""

    name: str
    description: str
    noisy: bool
    tables: list[Table]


@dataclass(frozen=True)
class LaboratoryContent:
    """Title, facts, the tables over all scenarios, and the scenarios."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    scenarios: list[Scenario]
    over_all: str = OVER_ALL


def content(run: SavedRun) -> LaboratoryContent:
    """Return what the template of a laboratory run needs."""
    found = findings(run)
    told = {str(r.get("name")): str(r.get("description") or "") for r in _records(run)}
    scenarios = [
        Scenario(
            name,
            told.get(name, ""),
            found.noisy(name),
            scenario_tables(run, found, name, place),
        )
        for place, name in enumerate(found.scenarios, 1)
    ]
    title = f"Does pruning change the {found.quantity.summary}?"
    return LaboratoryContent(title, _facts(run, found), overall_tables(run, found), scenarios)


def _records(run: SavedRun) -> list[dict[str, object]]:
    return list(run.meta.get("scenarios") or [])


def _facts(run: SavedRun, found: Findings) -> list[tuple[str, str]]:
    """What was run, at a glance."""
    seeds = sorted(int(seed) for seed in run.rows["seed"].unique())
    facts = [
        ("scenarios", ", ".join(found.scenarios)),
        ("dropout", ", ".join(f"{share:g}" for share in found.dropouts)),
        ("seeds", ", ".join(str(seed) for seed in seeds)),
        ("pruning ratios", ", ".join(f"{r:g}" for r in ratios(found.values, PRUNED))),
        ("arms", ", ".join(arms(run))),
    ]
    return [(name, value) for name, value in facts if value]
