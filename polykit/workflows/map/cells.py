"""What the cells of a map do: those of the analysis, at every point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from polykit.runtime.store import CellResult, RunStore
from polykit.workflows.analyze import cells as analyze
from polykit.workflows.config import value_text
from polykit.workflows.map.setup import Cell, Setup, joined
from polykit.workflows.sweep import Failures, Phase, record


class PointStore(RunStore):
    """One point's part of a map's run directory, in which its analysis finds its own cells."""

    def __init__(self, path: Path, point: str) -> None:
        super().__init__(path)
        self._point = point

    def cell(self, name: str) -> Path:
        """Return the directory of the point's cell."""
        return super().cell(joined(self._point, name))

    def write_cell(self, name: str, result: CellResult) -> None:
        """Write a cell whose tables and remarks tell which point they are of."""
        tables = {n: table.assign(point=self._point) for n, table in result.tables.items()}
        notices = tuple(f"{self._point}: {line}" for line in result.notices)
        super().write_cell(name, replace(result, tables=tables, notices=notices))


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data = setup.first.data
    return {
        **record(
            "map", setup.config, setup.plugins, setup.cells, command, setup.device, setup.threads
        ),
        "points": {
            name: {option: value_text(value) for option, value in values.items()}
            for name, values in setup.points.items()
        },
        "data": {"name": data.name, "task": data.task, "skipped": []},
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run: each phase of the analysis, at every point."""
    inner = {
        point: analyze.phases(analysis, PointStore(store.path, point))
        for point, analysis in setup.analyses.items()
    }
    turns = zip(*inner.values(), strict=True)
    return [_everywhere(dict(zip(inner, parts, strict=True))) for parts in turns]


def _everywhere(parts: Mapping[str, Phase]) -> Phase:
    """Join one phase of all points."""
    first = next(iter(parts.values()))
    groups = [
        [Cell(point, cell) for cell in group]  # type: ignore[arg-type]
        for point, phase in parts.items()
        for group in phase.groups
    ]
    return Phase(partial(_work, parts), groups, first.fatal, partial(_skipped, parts))


def _work(parts: Mapping[str, Phase], cells: Sequence[Cell]) -> Failures:
    """Do a group's work, whose cells are all of one point."""
    if not cells:
        return {}
    point = cells[0].point
    failures = parts[point].work([cell.inner for cell in cells])
    return {joined(point, name): error for name, error in failures.items()}


def _skipped(parts: Mapping[str, Phase]) -> list[str]:
    return list(dict.fromkeys(line for phase in parts.values() for line in phase.skipped()))


def closing(meta: dict[str, Any], skipped: Sequence[str]) -> None:
    """Add to the run's record what could not be read."""
    meta["data"]["skipped"] = list(dict.fromkeys([*meta["data"]["skipped"], *skipped]))
