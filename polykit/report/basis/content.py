"""What the page of a run of `basis` says beside its verdict and figures."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from polykit.report import tables
from polykit.report.basis import numbers
from polykit.report.basis.numbers import BASES, ORIGINS
from polykit.report.numbers import finite
from polykit.report.tables import Cell, Table, exact, spread, spread_note
from polykit.runtime.store import SavedRun
from polykit.types.measurement import ALL_LAYERS


@dataclass(frozen=True)
class BasisContent:
    """Title, facts and tables of the page."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]


def content(run: SavedRun) -> BasisContent:
    """Return what the template of `basis` needs."""
    config: dict[str, Any] = dict(run.meta.get("config") or {})
    facts = [
        ("layers", " → ".join(map(str, run.meta.get("layers") or ()))),
        ("bases", ", ".join(map(str, config.get("bases") or ()))),
        ("told from", ", ".join(map(str, config.get("origins") or ()))),
        ("samples", str(config.get("samples", ""))),
        ("seeds", ", ".join(map(str, config.get("seeds") or ()))),
    ]
    made = [sparsity(run), modules(run), pairs(run), networks(run)]
    return BasisContent(
        f"What acts on what in {config.get('model', 'networks')} on {config.get('dataset')}",
        [(name, text) for name, text in facts if text],
        [table for table in made if table.rows],
    )


def sparsity(run: SavedRun) -> Table:
    """Nodes and edges that count, by state, origin and basis."""
    statistics = [
        *("nodes", "effective_nodes"),
        *("possible_edges", "effective_edges", "effective_inputs"),
    ]
    rows = [
        (
            *(Cell(text) for text in (state.label, ORIGINS[origin], BASES[basis])),
            *(spread(numbers.values(run, state, origin, basis, name)) for name in statistics),
        )
        for state, origin, basis in numbers.graphs(run)
    ]
    return Table(
        "sparsity",
        "How many nodes and interactions count",
        f"Means over seeds{spread_note(run.rows)}. Nodes: directions or neurons that vary and that "
        "outputs respond to. Effective: exp(entropy) of sizes, or of strengths. Effective inputs: "
        "the same for the edges to one node, a mean that weighs by their strength.",
        ("network", "origin", "basis", *(name.replace("_", " ") for name in statistics)),
        (False, False, False, *(True,) * len(statistics)),
        tuple(rows),
    )


def modules(run: SavedRun) -> Table:
    """What Leiden found at every cutoff and resolution, beside rewired links."""
    table = run.tables["modules"]
    columns = ("edges", "modules", "modularity", "chance_modularity", "between", "chance_between")
    rows = []
    for state, origin, basis in numbers.graphs(run):
        own = state.of(table)
        for (cutoff, resolution), _ in own.groupby(["cutoff", "resolution"], sort=True):
            found = numbers.modules(
                run, state, origin, basis, (float(str(cutoff)), float(str(resolution)))
            )
            if len(found):
                cells = [Cell(text) for text in (state.label, ORIGINS[origin], BASES[basis])]
                cells += [exact(float(str(cutoff))), exact(float(str(resolution)))]
                rows.append((*cells, *(spread(found[column]) for column in columns)))
    names = ("edges", "modules", "modularity", "by chance", "between modules", "by chance")
    return Table(
        "modules",
        "Modules",
        f"Means over seeds{spread_note(run.rows)}. Cutoff: share of the outputs' variance. Between "
        "modules: the share of log strength that crosses them. By chance: the same of rewired "
        "links.",
        ("network", "origin", "basis", "cutoff", "resolution", *names),
        (False, False, False, *(True,) * 8),
        tuple(rows),
    )


def pairs(run: SavedRun) -> Table:
    """Effective interactions between each two layers."""
    layers = [str(layer) for layer in run.meta.get("layers") or ()]
    names = [f"{before}→{behind}" for before, behind in pairwise(layers)]
    rows = [
        (
            *(Cell(text) for text in (state.label, ORIGINS[origin], BASES[basis])),
            *(
                spread(numbers.values(run, state, origin, basis, "effective_edges", name))
                for name in names
            ),
        )
        for state, origin, basis in numbers.graphs(run)
    ]
    return Table(
        "pairs",
        "Effective interactions, layer by layer",
        f"Means over seeds{spread_note(run.rows)}.",
        ("network", "origin", "basis", *names),
        (False, False, False, *(True,) * len(names)),
        tuple(rows),
    )


def networks(run: SavedRun) -> Table:
    """What the networks are worth: loss, accuracy, density."""
    rows = finite(run.rows[run.rows["layer"] == ALL_LAYERS])
    made = [
        (
            Cell(state.label),
            Cell(str(metric)),
            Cell(str(statistic).replace("_", " ")),
            tables.spread(part["value"]),
        )
        for state in numbers.states(run)
        for (metric, statistic), part in state.of(rows).groupby(["metric", "statistic"], sort=False)
    ]
    return Table(
        "networks",
        "The networks",
        f"On the test samples. Means over seeds{spread_note(run.rows)}.",
        ("network", "metric", "statistic", "value"),
        (False, False, False, True),
        tuple(made),
    )
