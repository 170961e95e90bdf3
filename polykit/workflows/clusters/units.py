"""From a layer's activations to each unit's clusters, and what can be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from polykit.errors import DataError
from polykit.runtime.clusters.clustering import (
    NOISE,
    Vectors,
    agreement,
    distances,
    embed,
    medoids,
    partition,
    variants,
)
from polykit.runtime.clusters.evidence import Confirmed, find_clusters, strength
from polykit.runtime.clusters.quality import (
    dbcv,
    effective_number,
    purest,
    purest_name,
    silhouette,
)
from polykit.runtime.samples.shards import Chunk, Shards, Summary, as_array, summarise
from polykit.runtime.seeds import derive
from polykit.runtime.store import CellResult
from polykit.workflows.clusters.setup import Setup

BLOCK = 64
"""Units whose members' vectors are in memory at a time."""


def look_at_units(setup: Setup, shards: Shards, units: Sequence[int]) -> CellResult:
    """Cluster the top pictures of each unit and return the rows of all tables.

    One pass over the shards finds the top pictures, one per block of units fetches their vectors.
    """
    summary = summarise(shards, units, setup.top, positive=setup.config.at == "post")
    if summary.count == 0:
        raise DataError(f"none of the {len(setup.split)} pictures could be read")
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("rows", "clusters", "members", "sensitivity")
    }
    silent: list[int] = []
    few: list[int] = []
    for place, unit, members in _members(shards, summary, units):
        count = len(members.index)
        found = (
            _Look(setup, shards.layer, unit, summary, place, members).tables()
            if count
            else _silent(summary, unit)
        )
        for name, rows in found.items():
            tables[name] += [{"layer": shards.layer, "unit": unit, **row} for row in rows]
        silent += [unit] * (count == 0)
        few += [unit] * (0 < count < 2 * setup.recipe.min_cluster_size)
    notices = []
    if silent:
        notices.append(
            f"{shards.layer}: {_named(silent)} on none of the {summary.count:,} pictures: silent"
        )
    if few:
        notices.append(
            f"{shards.layer}: {_named(few)} on fewer pictures than two clusters of "
            f"{setup.recipe.min_cluster_size} need, so theirs count as one; lower "
            f"--min-cluster-size, or bring more pictures"
        )
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}
    return CellResult(frames, {}, tuple(notices))


def _silent(summary: Summary, unit: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of a unit without members."""
    statistics = {"pictures": 0.0, "fires": 0.0, "top_activation": float(summary.most[unit])}
    statistics |= {"clusters": 0.0, "score": 0.0}
    return {"rows": [{"statistic": name, "value": v} for name, v in statistics.items()]}


def _named(units: Sequence[int]) -> str:
    shown = ", ".join(str(unit) for unit in units[:8]) + ", …" * (len(units) > 8)
    return f"unit {shown} fires" if len(units) == 1 else f"{len(units)} units ({shown}) fire"


def _members(
    shards: Shards, summary: Summary, units: Sequence[int]
) -> Iterator[tuple[int, int, Chunk]]:
    """Yield each unit with its place in the summary and its top pictures, strongest first."""
    for start in range(0, len(units), BLOCK):
        places = range(start, min(start + BLOCK, len(units)))
        wanted = torch.cat([summary.pictures[place] for place in places]).unique()
        pool = shards.gather(wanted)
        for place in places:
            rows = torch.searchsorted(pool.index, summary.pictures[place].contiguous())
            yield place, units[place], Chunk(pool.index[rows], pool.label[rows], pool.values[rows])


class _Look:
    """One unit under the microscope."""

    def __init__(
        self,
        setup: Setup,
        layer: str,
        unit: int,
        summary: Summary,
        place: int,
        members: Chunk,
    ) -> None:
        self._setup, self._summary, self._unit = setup, summary, unit
        self._pictures = members.index.tolist()
        self._values = summary.values[place].double().numpy()
        self._labels = members.label.tolist()
        self._vectors = as_array(members.values)
        self._mean, self._std = summary.mean.numpy(), summary.std.numpy()
        config = setup.config
        self._tested: Confirmed = find_clusters(
            self._vectors,
            self._mean,
            self._std,
            setup.recipe,
            np.random.default_rng(derive(config.seed, "clusters", layer, unit)),
            resamples=config.resamples,
            nulls=config.nulls,
        )
        self._embedded = embed(self._vectors, setup.recipe, self._mean, self._std)
        self._apart: Vectors = distances(self._embedded)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The unit's rows of every table, but for the columns layer and unit."""
        clusters = self._clusters()
        return {
            "rows": [{"statistic": n, "value": float(v)} for n, v in self._statistics(clusters)],
            "clusters": clusters,
            "members": [
                {
                    "rank": rank,
                    "picture": picture,
                    "activation": float(self._values[rank]),
                    "cluster": int(self._tested.labels[rank]),
                    "probability": float(self._tested.probabilities[rank]),
                }
                for rank, picture in enumerate(self._pictures)
            ],
            "sensitivity": self._sensitivity(),
        }

    def _clusters(self) -> list[dict[str, Any]]:
        labels, stable = self._tested.labels, self._tested.stability
        centres = medoids(labels, self._apart)
        rows = []
        for cluster in sorted(set(labels.tolist()), key=lambda c: (c == NOISE, c)):
            here = np.flatnonzero(labels == cluster)
            rows.append(
                {
                    "cluster": cluster,
                    "size": len(here),
                    "medoid": self._pictures[centres[cluster]] if cluster != NOISE else -1,
                    "activation": float(self._values[here].mean()),
                    "stability": stable[cluster] if cluster != NOISE and stable else np.nan,
                    **self._purity([self._labels[i] for i in here]),
                }
            )
        return rows

    def _purity(self, labels: Sequence[int]) -> dict[str, Any]:
        """The most frequent class and noun of some pictures, and their shares; missing if none."""
        found = {"purity": np.nan, "class": "", "name_purity": np.nan, "name": ""}
        classes, names = self._setup.classes, self._setup.data.names
        if classes:
            found["class"], found["purity"] = purest([classes[label] for label in labels])
        if names:
            found["name"], found["name_purity"] = purest_name([names[label] for label in labels])
        return found

    def _statistics(self, clusters: Sequence[dict[str, Any]]) -> Iterator[tuple[str, float]]:
        """Every statistic of the unit that is defined."""
        tested, summary, n = self._tested, self._summary, len(self._pictures)
        yield "pictures", n
        yield "fires", float(summary.fires[self._unit])
        yield "top_activation", float(summary.most[self._unit])
        yield "clusters", tested.clusters
        labels, stable = tested.labels, tested.stability
        kept = strength(labels, np.array(stable)) if tested.clusters > 1 else 0.0
        sizes = [row["size"] for row in clusters if row["cluster"] != NOISE]
        yield "score", kept * effective_number(sizes) if tested.clusters > 1 else 0.0
        yield "noise_share", float(np.mean(labels == NOISE))
        yield "hdbscan_clusters", tested.found.clusters
        yield "hdbscan_noise_share", tested.found.noise_share
        yield "p", tested.p
        found = {
            "silhouette": silhouette(labels, self._apart),
            "dbcv": dbcv(labels, self._apart, self._embedded.shape[1]),
            "stability": min(stable) if stable else None,
        }
        yield from ((name, value) for name, value in found.items() if value is not None)
        for statistic, column in (("class_purity", "purity"), ("name_purity", "name_purity")):
            shares = [row[column] for row in clusters if row["cluster"] != NOISE]
            if not np.isnan(shares).any():
                yield statistic, float(np.average(shares, weights=sizes))

    def _sensitivity(self) -> list[dict[str, Any]]:
        """What HDBSCAN alone says with other settings, and how far it is from what was asked."""
        if not self._setup.config.sensitivity:
            return []
        rows = []
        for name, recipe in variants(self._setup.recipe, self._vectors.shape[1]).items():
            other = partition(
                distances(embed(self._vectors, recipe, self._mean, self._std)), recipe
            )
            rows.append(
                {
                    "setting": name,
                    "clusters": other.clusters,
                    "noise_share": other.noise_share,
                    "agreement": agreement(self._tested.found.labels, other.labels),
                }
            )
        return rows
