"""What each cell of `visualize` does: grow pictures for one unit, and attribute it to pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from polykit.errors import ModelError
from polykit.runtime.clusters.visualizing import attribute_pixels, feature_pictures
from polykit.runtime.passes.reading import Reader
from polykit.runtime.pruning.masking import masked
from polykit.runtime.samples import pictures
from polykit.runtime.samples.splits import indexed
from polykit.runtime.store import CellResult, RunStore
from polykit.types import UnitRef
from polykit.workflows.sweep import Phase, groups_of, one_by_one, record
from polykit.workflows.visualize.setup import DENSE, Cell, Setup

PICTURES = "the pictures"
"""The variant of the row that shows the pictures whose pixels are attributed."""


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    return record(
        "visualize",
        setup.config,
        setup.plugins,
        setup.cells,
        command,
        setup.device,
        setup.threads,
    )


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run."""
    work = partial(one_by_one, partial(_write, setup, store))
    return [Phase(work, groups_of(setup.cells, 1))]


def _write(setup: Setup, store: RunStore, cell: Cell) -> None:
    found = visualize(setup, cell)
    store.write_cell(cell.name, found)
    rows = found.tables["rows"].to_dict("records") if "rows" in found.tables else []
    setup.registry.notify("polykit_measured", cell=cell.name, stage="shown", rows=rows)


@dataclass(frozen=True)
class Shown:
    """One kind of pictures of a unit: numbers about them, and (variant, picture, text) of each."""

    kind: str
    statistics: Mapping[str, float]
    images: Sequence[tuple[str, Tensor, str]]


def visualize(setup: Setup, cell: Cell) -> CellResult:
    """Show one unit as one mask leaves it.

    What the model does not allow to be shown becomes a remark that says why.
    """
    config, mask = setup.config, setup.masks[cell]
    network = setup.clusters.network()
    reader = setup.clusters.reader(cell.unit.layer, at="pre")
    dense = _sampled(setup, network, reader, cell.unit)
    kinds: dict[str, Callable[[], Shown]] = {}
    if config.pictures:
        # the dense unit's spread, so that what a mask leaves of it is grown alike
        kinds["features"] = partial(features, setup, cell, network, reader, float(dense.std()))
    if config.examples:
        kinds["attribution"] = partial(attribution, setup, cell, network, reader)
    found, notices = [], []
    with masked(network, mask) if mask is not None else nullcontext():
        for kind, show in kinds.items():
            try:
                found.append(show())
            except ModelError as error:
                notices.append(f"{cell.unit} ({cell.variant}) has no {kind}: {error}")
    return _result(cell, found, notices)


def features(setup: Setup, cell: Cell, network: nn.Module, reader: Reader, spread: float) -> Shown:
    """Grow pictures that raise the unit, and show the part of them that reaches it.

    Their mean value, that of the grey they grew from, and the highest among real pictures.
    """
    config, unit = setup.config, cell.unit
    found = feature_pictures(
        network,
        reader,
        unit.index,
        setup.canvas,
        spread=spread,
        count=config.pictures,
        steps=config.steps,
        diversity=config.diversity,
        seed=config.seed,
    )
    inputs = found.inputs.cpu()
    shown = setup.clusters.data.picture(reader.field.crop(inputs) if reader.field else inputs)
    return Shown(
        "features",
        {
            "value": float(found.values.mean()),
            "start": found.start,
            "real": float(_sampled(setup, network, reader, unit).max()),
        },
        [
            (cell.variant, picture, f"grown for {unit} ({cell.variant}), value {value:.3g}")
            for picture, value in zip(shown, found.values.tolist(), strict=True)
        ],
    )


def attribution(setup: Setup, cell: Cell, network: nn.Module, reader: Reader) -> Shown:
    """Attribute the unit's value for each example to pixels; the dense cell shows them plain, too.

    The largest difference between the pixels' sum and what it should be, where one is known.
    """
    unit, plain, drawn, gaps = cell.unit, [], [], []
    for picture, cluster, x in _examples(setup, unit):
        found = attribute_pixels(
            network, reader, unit.index, x.to(setup.device), method=setup.config.attribution
        )
        (shown,) = setup.clusters.data.picture(x)
        text = f"picture {picture} of cluster {cluster}"
        plain.append((PICTURES, shown, text))
        over = pictures.overlay(shown, found.pixels[0].cpu())
        drawn.append((cell.variant, over, f"{text}: its pixels for {unit} ({cell.variant})"))
        gaps += [] if found.gap is None else [float(found.gap.abs().max())]
    images = [*plain, *drawn] if cell.variant == DENSE else drawn
    return Shown("attribution", {"gap": max(gaps)} if gaps else {}, images)


def _sampled(setup: Setup, network: nn.Module, reader: Reader, unit: UnitRef) -> Tensor:
    with torch.no_grad():
        return reader(network, setup.sample.to(setup.device))[:, unit.index]


def _examples(setup: Setup, unit: UnitRef) -> Iterator[tuple[int, int, Tensor]]:
    """The strongest pictures of each cluster of a unit: number, cluster, input `[1, ...]`."""
    members = setup.clusters.members(unit).sort_values("rank")
    best = members[members["cluster"] >= 0].groupby("cluster").head(setup.config.examples)
    clusters = dict(zip(best["picture"], best["cluster"], strict=True))
    ordered = sorted(clusters, key=lambda picture: clusters[picture])
    if ordered:
        for indices, x, _ in indexed(setup.clusters.split, 1, torch.tensor(ordered)):
            yield int(indices), int(clusters[int(indices)]), x


def _result(cell: Cell, found: Sequence[Shown], notices: Sequence[str]) -> CellResult:
    place = {"unit": str(cell.unit), "variant": cell.variant}
    rows, images, files = [], [], {}
    for shown in found:
        for name, value in shown.statistics.items():
            rows.append({**place, "kind": shown.kind, "statistic": name, "value": value})
        for number, (variant, picture, text) in enumerate(shown.images):
            file = f"{shown.kind}-{number}.png"
            files[file] = pictures.png(pictures.as_bytes(picture))
            image = {"kind": shown.kind, "number": number, "file": f"cells/{cell.name}/{file}"}
            images.append({**place, "variant": variant, **image, "text": text})
    tables = {
        name: pd.DataFrame(table) for name, table in (("rows", rows), ("images", images)) if table
    }
    return CellResult(tables, files, tuple(notices))
