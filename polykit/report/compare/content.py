"""What the page of a comparison says beside its verdict and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polykit.report import words
from polykit.report.compare import numbers
from polykit.report.tables import Cell, Table, exact, from_frame
from polykit.runtime.store import SavedRun


@dataclass(frozen=True)
class CompareContent:
    """Title, facts and tables of the page."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[Table]


def content(run: SavedRun) -> CompareContent:
    """Return what the template of a comparison needs."""
    config: dict[str, Any] = dict(run.meta.get("config") or {})
    data: dict[str, Any] = dict(run.meta.get("data") or {})
    others = numbers.others(run)
    first = str(run.meta.get("first"))
    facts = [
        ("first", first),
        ("others", ", ".join(others)),
        ("data", str(data.get("name") or "")),
        ("samples", f"{data.get('train')} training, {data.get('test')} test"),
        ("points", str(config.get("points")) if config.get("path") else ""),
        ("starts", str(config.get("starts")) if config.get("path") else ""),
        ("pull", ", ".join(f"{s:g}" for s in config.get("pull") or ())),
    ]
    made = [pairs(run), pulls(run), alike(run)]
    return CompareContent(
        f"What lies between {first} and {words.listed(others) or 'others'}",
        [(name, text) for name, text in facts if text],
        [table for table in made if table.rows],
    )


def _cell(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(words.number(value), value)


AWAY = ("train_loss_barrier", "train_accuracy_barrier", "distance", "agreement")
OWN = ("train_loss", "test_loss")
"""What is told of a pulled network: of the line to an end, and of the network itself."""

STATISTICS = (
    ("train_loss_barrier", "barrier, training loss"),
    ("test_loss_barrier", "barrier, test loss"),
    ("train_accuracy_barrier", "barrier, training accuracy"),
    ("test_accuracy_barrier", "barrier, test accuracy"),
    ("distance", "distance"),
)


def pairs(run: SavedRun) -> Table:
    """Barriers and distances by pair and order of the units."""
    rows = []
    for other in numbers.others(run):
        for route in numbers.ROUTES:
            values = [
                numbers.value(run, other, name, stage="compared", route=route)
                for name, _ in STATISTICS
            ]
            if any(value is not None for value in values):
                rows.append((Cell(other), Cell(route), *map(_cell, values)))
    return Table(
        "pairs",
        "What stands on the line",
        "Barrier: how far a loss rises (an accuracy falls) beyond the line between its ends. Means "
        "over the random orders. Distance: L2, over all parameters.",
        ("other", "units", *(title for _, title in STATISTICS)),
        (False, False, *(True,) * len(STATISTICS)),
        tuple(rows),
    )


def pulls(run: SavedRun) -> Table:
    """What each pull did."""
    rows = []
    for other in numbers.others(run):
        for strength in numbers.strengths(run, other):
            for stage in ("pulled", "released"):
                for route in ("to other", "to first"):
                    asked = [*((s, route) for s in AWAY), *((s, "") for s in OWN)]
                    found = [
                        numbers.value(run, other, s, stage=stage, route=way, strength=strength)
                        for s, way in asked
                    ]
                    rows.append(
                        (
                            Cell(other),
                            exact(strength),
                            Cell(stage),
                            Cell(route),
                            *map(_cell, found),
                        )
                    )
    return Table(
        "pulls",
        "The pull",
        "The first network trained on under λ/2 · ‖θ − θ_other‖², then as long without. Strength 0 "
        "is the control.",
        (
            "other",
            "strength",
            "stage",
            "line",
            "barrier, training loss",
            "barrier, training accuracy",
            "distance",
            "agreement",
            "training loss",
            "test loss",
        ),
        (False, True, False, False, *(True,) * 6),
        tuple(rows),
    )


def alike(run: SavedRun) -> Table:
    """Linear CKA between all layers."""
    return from_frame(
        "layers",
        "How alike the layers are",
        "Linear CKA of units behind their nonlinearity, means over maps. Route “random weights” is "
        "the control.",
        run.tables["layers"],
    )
