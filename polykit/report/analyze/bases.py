"""Metrics that were taken in several bases, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polykit.report.analyze import numbers
from polykit.report.numbers import describe, label, metric_records, paired, select
from polykit.report.tables import Cell, Table, difference, exact, spread, spread_note
from polykit.runtime.store import SavedRun

NEURONS = "neuron"


def by_basis(run: SavedRun) -> Table:
    """One row per metric and network: its headline by basis, and how it differs from neurons'."""
    groups = _groups(run)
    bases = list(dict.fromkeys(basis for group in groups for basis in group))
    others = [basis for basis in bases if basis != NEURONS]
    rows = []
    for group in groups:
        found = {
            basis: numbers.by_network(select(run.rows, label(record), str(record["headline"])))
            for basis, record in group.items()
        }
        noun = describe(run, label(group[NEURONS]), str(group[NEURONS]["headline"])).noun
        for network, ours in found[NEURONS].items():
            pruner, density, stage = network
            values = {basis: table.get(network) for basis, table in found.items()}
            rows.append(
                (
                    *(Cell(noun), Cell(pruner), Cell(stage), exact(density)),
                    *(spread(values.get(basis)) for basis in bases),
                    *(
                        difference(None if (v := values.get(b)) is None else paired(v, ours))
                        for b in others
                    ),
                )
            )
    return Table(
        "bases",
        "By basis",
        f"Whole network. Means over seeds{spread_note(run.rows)}; differences from neurons are "
        "paired by seed, with their 95\u00a0% t-interval. The conjecture of Bushnaq et al. 2024 is "
        "that directions of the interaction basis are easier to read and sparser than neurons.",
        (
            *("quantity", "pruner", "stage", "density"),
            *bases,
            *(f"{basis} less neuron" for basis in others),
        ),
        (False, False, False, *(True,) * (1 + len(bases) + len(others))),
        tuple(rows),
    )


def _groups(run: SavedRun) -> list[dict[str, Mapping[str, Any]]]:
    """Records of metrics that differ in their basis only, by basis, neurons among them."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for record in metric_records(run.meta):
        options = dict(record.get("options") or {})
        basis = options.pop("basis", None)
        if basis is not None and record.get("headline"):
            kind = str(record.get("name")), str(sorted(options.items()))
            groups.setdefault(kind, {})[str(basis)] = record
    return [group for group in groups.values() if len(group) > 1 and NEURONS in group]
