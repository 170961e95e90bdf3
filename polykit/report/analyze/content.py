"""What the page of an analysis says beside its verdict and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polykit.report import style
from polykit.report.analyze import numbers
from polykit.report.analyze.tables import all_tables
from polykit.report.style import Look
from polykit.report.tables import Table
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class AnalyzeContent:
    """Title, facts and tables of the page, and the look of each pruner."""

    title: str
    facts: list[tuple[str, str]]
    looks: dict[str, Look]
    tables: list[Table]


def content(run: SavedRun) -> AnalyzeContent:
    """Return what the template of an analysis needs."""
    looks = style.looks(numbers.pruners(run))
    return AnalyzeContent(_title(run.meta), _facts(run), looks, all_tables(run))


def _plugin(meta: Mapping[str, Any], kind: str) -> str:
    record = (meta.get("plugins") or {}).get(kind) or {}
    return str(record.get("label") or record.get("name") or _config(meta).get(kind, ""))


def _title(meta: Mapping[str, Any]) -> str:
    model, data = _plugin(meta, "model"), _plugin(meta, "dataset")
    start = " at initialisation" if _config(meta).get("prune_at") == "init" else ""
    return f"What pruning{start} did to {model or 'a model'} on {data or 'its data'}"


def _facts(run: SavedRun) -> list[tuple[str, str]]:
    """What was run, at a glance."""
    config = _config(run.meta)
    seeds = sorted(int(seed) for seed in run.rows["seed"].unique())
    facts = [
        ("pruners", ", ".join(numbers.pruners(run))),
        ("densities", ", ".join(f"{density:g}" for density in numbers.densities(run))),
        ("seeds", ", ".join(str(seed) for seed in seeds)),
        ("removed", " × ".join(str(config[k]) for k in ("granularity", "scope") if k in config)),
        ("pruned at", str(config.get("prune_at", ""))),
        ("objective", str(config.get("objective", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def _config(meta: Mapping[str, Any]) -> dict[str, Any]:
    return dict(meta.get("config") or {})
