"""Tables that go on where the paper stops: relations, classes' subnetworks, lottery tickets."""

from __future__ import annotations

from polykit.report import words
from polykit.report.density import numbers, subnetworks
from polykit.report.density.relations import relations
from polykit.report.numbers import Estimate
from polykit.report.tables import Cell, Table, difference, exact
from polykit.runtime.store import SavedRun


def correlations(run: SavedRun) -> Table:
    """Correlations of effective density with metrics' headlines."""
    rows = [
        (
            Cell(r.pruner),
            Cell(r.quantity.metric),
            Cell(r.quantity.statistic),
            Cell("all networks" if r.scope == "pooled" else "of one kind"),
            Cell(r.kind),
            Cell(str(r.n), r.n),
            Cell(words.correlation(r.value, r.low, r.high), r.value),
        )
        for pruner in numbers.pruners(run)
        for r in relations(run, pruner)
    ]
    return Table(
        "relations",
        "Correlation of effective density with what metrics find",
        "With 95\u00a0% bootstrap intervals over networks. Networks of one kind share width, "
        "initialisation and optimiser: there, the width alone makes no correlation.",
        ("pruner", "metric", "statistic", "over", "coefficient", "networks", "correlation"),
        (False, False, False, False, False, True, True),
        tuple(rows),
    )


def classes(run: SavedRun) -> Table:
    """Classes' subnetworks by width."""
    density = (run.meta.get("config") or {}).get("class_density")
    return Table(
        "classes",
        "Subnetworks of classes",
        f"Each is sought for the logit of one class, on samples of it, at density {density} of the "
        "hidden layers. AUC: how well the logit tells validation samples of the class.",
        (
            "scale",
            "networks",
            "IoU of two classes",
            "IoU by chance",
            "AUC, own",
            "AUC, other class's",
            "AUC, random",
            "AUC, whole network",
        ),
        (True,) * 8,
        tuple(
            (
                exact(c.scale),
                Cell(str(c.own.n), c.own.n),
                *map(mean, (c.iou, c.chance, c.own, c.others, c.random, c.whole)),
            )
            for c in subnetworks.classes(run)
        ),
    )


def tickets(run: SavedRun) -> Table:
    """Metrics of dense networks, tickets and random tickets, and paired differences."""
    rows = [
        (
            exact(t.scale),
            Cell(t.quantity.metric),
            Cell(t.quantity.statistic),
            Cell(str(t.dense.n), t.dense.n),
            *map(mean, (t.dense, t.ticket, t.random)),
            *map(difference, (t.change, t.control, t.difference)),
        )
        for t in subnetworks.lottery(run)
    ]
    return Table(
        "tickets",
        "Lottery tickets beside the dense network",
        "All three start from the same weights; differences are paired by network, with 95\u00a0% "
        "t-intervals. On the test samples.",
        (
            "scale",
            "metric",
            "statistic",
            "networks",
            "dense",
            "ticket",
            "random",
            "ticket − dense",
            "random − dense",
            "ticket − random",
        ),
        (True, False, False, *(True,) * 7),
        tuple(rows),
    )


def alike(run: SavedRun) -> Table:
    """Rank correlation of units with the same units of the dense network."""
    return Table(
        "alike",
        "Do the same units stay what they were?",
        "Spearman's correlation over units with the dense network's; units that are silent in "
        "either are left out.",
        ("scale", "metric", "statistic", "networks", "ticket", "random", "ticket − random"),
        (True, False, False, True, True, True, True),
        tuple(
            (
                exact(a.scale),
                Cell(a.metric),
                Cell(a.statistic),
                Cell(str(a.ticket.n), a.ticket.n),
                *map(difference, (a.ticket, a.random, a.difference)),
            )
            for a in subnetworks.alike(run)
        ),
    )


def mean(found: Estimate) -> Cell:
    """Write a mean with half its interval."""
    half = "" if found.half is None else f" ± {words.number(found.half, found.mean)}"
    return Cell(f"{words.number(found.mean)}{half}", found.mean)
