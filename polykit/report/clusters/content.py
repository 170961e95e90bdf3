"""What the atlas says beside its verdict and figures: the units, ranked, each with its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from polykit.report import words
from polykit.report.below import runs_below
from polykit.report.clusters import verdict as clusters_verdict
from polykit.report.clusters.montages import Album, Montage, medoid, montage
from polykit.report.clusters.numbers import STATISTICS
from polykit.report.clusters.ranking import of_unit, ranked
from polykit.report.dissect import verdict as dissect_verdict
from polykit.report.images import Image
from polykit.report.tables import Cell, Table
from polykit.report.visualize.strips import Strip, strips
from polykit.runtime.store import SavedRun

_SHOWN = [name for name in STATISTICS if name != "pictures" and not name.startswith("hdbscan")]
_WHOLE = ("clusters",)


@dataclass(frozen=True)
class Dissection:
    """What a dissection says of one unit, and where its own page is; empty if there is none."""

    title: str
    lines: tuple[str, ...]
    page: str


@dataclass(frozen=True)
class UnitPart:
    """One unit's part of the page."""

    name: str
    anchor: str
    gist: str
    lines: tuple[str, ...]
    medoids: tuple[Image, ...]
    montages: tuple[Montage, ...]
    strips: tuple[Strip, ...]
    dissections: tuple[Dissection, ...]
    sensitivity: Table | None


@dataclass(frozen=True)
class ClustersContent:
    """Title, facts, the ranking, and a part for each unit, in the ranking's order."""

    title: str
    facts: list[tuple[str, str]]
    ranking: Table
    columns: list[tuple[str, str]]
    units: list[UnitPart]
    notices: list[str]


def content(run: SavedRun) -> ClustersContent:
    """Return what the template of a run of `clusters` needs, with what lies below the run."""
    dissections, left_out = runs_below(run, "dissections")
    visualizations, more = runs_below(run, "visualizations")
    album, said = Album(run), dict(clusters_verdict.verdict(run).parts)
    dissected = [(d, dict(dissect_verdict.verdict(d).parts)) for d in dissections]
    units = [
        UnitPart(
            name=name,
            anchor=f"unit-{place}",
            gist=_gist(values),
            lines=tuple(said.get(name, ())),
            medoids=_medoids(album, of_unit(run.tables["clusters"], name)),
            montages=tuple(_montages(run, album, name)),
            strips=tuple(strip for v in visualizations for strip in strips(v, name)),
            dissections=tuple(_dissections(dissected, name)),
            sensitivity=_sensitivity(run, name, place),
        )
        for place, (name, values) in enumerate(ranked(run), 1)
    ]
    return ClustersContent(
        _title(run.meta),
        _facts(run),
        _ranking(run, units),
        [(_heading(name), STATISTICS[name].summary) for name in _SHOWN],
        units,
        left_out + more,
    )


def _gist(values: Mapping[str, float]) -> str:
    count = int(values.get("clusters", 0))
    parts = [f"{count} cluster{'' if count == 1 else 's'}" if count else "no clusters"]
    if values.get("noise_share"):
        parts.append(f"{100 * values['noise_share']:.0f} % in none")
    if values.get("score"):
        parts.append(f"score {words.number(values['score'])}")
    return ", ".join(parts)


def _medoids(album: Album, clusters: pd.DataFrame) -> tuple[Image, ...]:
    found = (medoid(album, row) for _, row in clusters.iterrows())
    return tuple(image for image in found if image is not None)


def _montages(run: SavedRun, album: Album, unit: str) -> Iterator[Montage]:
    """Each cluster of a unit, the largest first; what is in none comes last."""
    clusters, members = of_unit(run.tables["clusters"], unit), of_unit(run.tables["members"], unit)
    order = clusters.assign(noise=clusters["cluster"] < 0).sort_values(
        ["noise", "size"], ascending=[True, False], kind="stable"
    )
    for _, row in order.iterrows():
        mine = members[members["cluster"] == row["cluster"]]
        yield montage(album, row, mine, int(run.meta["config"]["montage"]))


def _dissections(
    dissected: Sequence[tuple[SavedRun, Mapping[str, tuple[str, ...]]]], unit: str
) -> Iterator[Dissection]:
    for run, said in dissected:
        if (run.rows["unit"] == unit).any():
            page = run.path / "report.html"
            link = f"dissections/{run.path.name}/report.html" if page.is_file() else ""
            yield Dissection(run.path.name, tuple(said.get(unit, ())), link)


def _ranking(run: SavedRun, units: Sequence[UnitPart]) -> Table:
    there = dict(ranked(run))
    shown = [name for name in _SHOWN if any(name in values for values in there.values())]
    rows = []
    for unit in units:
        values = there[unit.name]
        numbers = [_number(name, values.get(name)) for name in shown]
        name = Cell(unit.name, None, unit.anchor)
        rows.append((name, Cell("", float(len(unit.medoids)), images=unit.medoids), *numbers))
    return Table(
        "units",
        "Units, ranked",
        "The most polysemantic first. A unit’s name opens its part below. A medoid is the picture "
        "in the middle of a cluster.",
        ("unit", "medoids", *(_heading(name) for name in shown)),
        (False, False, *(True for _ in shown)),
        tuple(rows),
    )


def _heading(statistic: str) -> str:
    return statistic.replace("_", " ")


def _number(name: str, value: float | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:.0f}" if name in _WHOLE else words.number(value), value)


def _sensitivity(run: SavedRun, unit: str, place: int) -> Table | None:
    rows = of_unit(run.tables["sensitivity"], unit)
    if rows.empty:
        return None
    return Table(
        f"sensitivity-{place}",
        "Other settings",
        "What the same pictures give under other settings; agreement is the adjusted Rand index "
        "with the clusters shown (1: the same, 0: as by chance).",
        ("setting", "clusters", "noise share", "agreement"),
        (False, True, True, True),
        tuple(
            (
                Cell(str(row["setting"])),
                _number("clusters", float(row["clusters"])),
                _number("noise_share", _known(row["noise_share"])),
                _number("agreement", _known(row["agreement"])),
            )
            for row in rows.to_dict("records")
        ),
    )


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _title(meta: Mapping[str, Any]) -> str:
    model, data = meta["config"]["model"], meta["data"]["name"]
    return f"Which units of {model} on {data} look polysemantic?"


def _facts(run: SavedRun) -> list[tuple[str, str]]:
    """What was run, at a glance."""
    config, clustering = run.meta["config"], run.meta["clustering"]
    layers = list(dict.fromkeys(run.rows["layer"]))
    units = run.rows.drop_duplicates(["layer", "unit"])
    return [
        ("layers", ", ".join(map(str, layers)) or "none"),
        ("units", f"{len(units)}"),
        ("pictures", f"{run.meta['data']['pictures']:,} ({run.meta['data']['split']})"),
        ("of each unit, the top", f"{clustering['top']}"),
        ("smallest cluster", f"{clustering['min_cluster_size']}"),
        ("read", f"{config['position']}, {config['at']}-nonlinearity"),
    ]
