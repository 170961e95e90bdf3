"""Metrics that were taken in several bases, side by side."""

from __future__ import annotations

from polykit.report.analyze import numbers
from polykit.report.numbers import describe, label, metric_records, paired, select
from polykit.report.tables import Cell, Table, difference, exact, spread, spread_note
from polykit.runtime.store import SavedRun

NEURONS = "neuron"


def by_basis(run: SavedRun) -> Table:
    """One row per quantity and network: its value by basis, and how it differs from neurons'."""
    groups = _groups(run)
    bases = list(dict.fromkeys(basis for _, group in groups for basis in group))
    others = [basis for basis in bases if basis != NEURONS]
    rows = []
    for noun, group in groups:
        found = {basis: numbers.by_network(select(run.rows, *of)) for basis, of in group.items()}
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


def _groups(run: SavedRun) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """What was taken in several bases, neurons among them: its name; metric and statistic by basis.

    Either several metrics that differ in their basis only, or several statistics of one metric.
    """
    groups: dict[tuple[str, str], tuple[str, dict[str, tuple[str, str]]]] = {}
    for record in metric_records(run.meta):
        metric, headline = label(record), str(record.get("headline") or "")
        options = dict(record.get("options") or {})
        basis = options.pop("basis", None)
        own: dict[str, str] = dict(record.get("bases") or {})
        if basis is not None and headline:
            own[str(basis)] = headline
        kind = str(record.get("name")), str(sorted(options.items()))
        noun, group = groups.get(kind, ("", {}))
        if not noun or basis == NEURONS:
            noun = describe(run, metric, headline).noun
        groups[kind] = noun, group | {basis: (metric, stat) for basis, stat in own.items()}
    return [(noun, group) for noun, group in groups.values() if len(group) > 1 and NEURONS in group]
