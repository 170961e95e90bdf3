"""What each cell of `clusters` does: the network, a shard of activations, units, thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polykit.errors import DataError, ModelError, TrainingError, UsageError
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.samples.pictures import as_bytes
from polykit.runtime.samples.shards import FILE, Shards, to_tensors
from polykit.runtime.samples.splits import indexed, left_out
from polykit.runtime.store import CellResult, RunStore, tensor_bytes
from polykit.runtime.training.loop import train
from polykit.workflows.clusters.setup import Cell, Setup
from polykit.workflows.clusters.units import look_at_units
from polykit.workflows.epochs import tell_epoch
from polykit.workflows.sweep import Phase, groups_of, one_by_one, record

THUMBNAILS = "thumbnails.safetensors"

NO_MEDOID = -1
"""Noise has none."""


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    data, recipe = setup.data, setup.recipe
    common = record(
        "clusters",
        setup.config,
        setup.plugins,
        setup.cells,
        command,
        setup.device,
        setup.threads,
    )
    return {
        **common,
        "epochs": setup.epochs,
        "layers": list(setup.units),
        "reading": {
            layer: {
                "way": reader.way,
                "why": reader.why,
                "field": None if reader.field is None else [reader.field.start, reader.field.stop],
            }
            for layer, reader in setup.readers.items()
        },
        "clustering": {"top": setup.top, **vars(recipe)},
        "data": {
            "name": data.name,
            "split": setup.config.split,
            "pictures": len(setup.split),
            "shape": list(data.input_shape),
            "classes": list(data.classes),
        },
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run: the network, its activations, its units, what is shown of them.

    Without the network there is nothing to look at, so its failure is fatal.
    """
    steps = [
        (model_cell, [setup.model_cell]),
        (shard_cell, setup.shard_cells),
        (units_cell, setup.unit_cells),
        (picture_cell, [setup.picture_cell]),
    ]
    fatal = (DataError, ModelError, UsageError, TrainingError)
    return [
        Phase(
            partial(one_by_one, partial(work, setup, store)),
            groups_of(cells, 1),
            fatal=fatal if work is model_cell else (),
        )
        for work, cells in steps
    ]


def model_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Train the network, unless it comes trained, and keep its weights."""
    model = setup.build()

    tell = partial(
        tell_epoch,
        setup.registry,
        cell=cell.name,
        phase="train",
        epochs=setup.epochs,
        model=model,
    )

    tables = {}
    if setup.epochs:
        history = train(
            model,
            setup.data,
            setup.config.training,
            setup.epochs,
            seed=setup.config.seed,
            device=setup.device,
            checkpoint=store.scratch(cell.name),
            on_epoch=tell,
        )
        rows = pd.DataFrame([vars(epoch) for epoch in history.epochs])
        tables["history"] = rows.astype({"validation_accuracy": "float64"})
    weights = {"model.safetensors": tensor_bytes(model.state_dict())}
    store.write_cell(cell.name, CellResult(tables, weights, left_out(setup.data)))
    _done(setup, cell, "model")


def shard_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Read the pictures of one shard and keep every unit's activation."""
    model, readers = _network(setup, store), setup.readers
    places: list[Tensor] = []
    labels: list[Tensor] = []
    values: dict[str, list[Tensor]] = {layer: [] for layer in readers}
    order = torch.arange(cell.first, cell.last)
    with evaluating(model), torch.no_grad():
        for index, x, y in indexed(setup.split, setup.config.eval_batch_size, order):
            places.append(index)
            known = setup.data.task == "classification"
            labels.append(y.long() if known else torch.full_like(index, -1))
            pictures = x.to(setup.device)
            for layer, reader in readers.items():
                values[layer].append(reader(model, pictures).cpu())
    if not places:
        raise DataError(f"none of the {len(order)} pictures of {cell.name} could be read")
    read = {layer: torch.cat(parts) for layer, parts in values.items()}
    for layer, activations in read.items():
        if not bool(torch.isfinite(activations).all()):
            raise ModelError(
                f"{layer} gives activations that are NaN or infinite; look at the network's "
                f"weights, and at the range of the pictures"
            )
    kept = to_tensors(torch.cat(places), torch.cat(labels), read, setup.config.precision)
    lost = sorted(set(order.tolist()) - set(kept["index"].tolist()))
    named = [setup.data.source(setup.config.split, i) or f"picture {i}" for i in lost[:3]]
    notices = (f"{cell.name}: {len(lost)} pictures could not be read: {', '.join(named)}",)
    tensors = {FILE: tensor_bytes(kept)}
    store.write_cell(cell.name, CellResult({}, tensors, notices if lost else ()))
    _done(setup, cell, "activations")


def units_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Find each unit's top pictures and their clusters."""
    paths = tuple(store.file(shard.name, FILE) for shard in setup.shard_cells)
    found = look_at_units(setup, Shards(paths, cell.layer), setup.chosen(cell))
    store.write_cell(cell.name, found)
    _done(setup, cell, "clusters", found.tables["rows"].to_dict("records"))


def picture_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Say where the members come from, and keep small pictures of some of each cluster."""
    members, clusters = (
        pd.concat([store.read_table(of.name, table) for of in setup.unit_cells], ignore_index=True)
        for table in ("members", "clusters")
    )
    pictures = torch.tensor(sorted(set(members["picture"])), dtype=torch.long)
    layer = next(iter(setup.units))
    paths = tuple(store.file(shard.name, FILE) for shard in setup.shard_cells)
    labels = Shards(paths, layer).gather(pictures).label.tolist()
    source = partial(setup.data.source, setup.config.split)
    rows = [
        {
            "picture": picture,
            "label": label,
            "class": setup.classes[label] if label >= 0 else "",
            "source": source(picture),
        }
        for picture, label in zip(pictures.tolist(), labels, strict=True)
    ]
    strongest = members.groupby(["layer", "unit", "cluster"]).head(setup.config.montage)
    shown = {*strongest["picture"], *clusters["medoid"]} - {NO_MEDOID}
    tensors: dict[str, bytes] = {}
    notices: tuple[str, ...] = ()
    try:
        small = _thumbnails(setup, sorted(shown) if setup.config.montage else [])
        tensors = {THUMBNAILS: tensor_bytes(small)} if small else {}
    except DataError as error:
        notices = (f"no thumbnails: {error}",)
    found = {"pictures": pd.DataFrame(rows)} if rows else {}
    store.write_cell(cell.name, CellResult(found, tensors, notices))
    _done(setup, cell, "pictures")


def _thumbnails(setup: Setup, pictures: Sequence[int]) -> dict[str, Tensor]:
    """Small RGB pictures `[3, h, w]` of uint8, by their index; never larger than the input."""
    small: dict[str, Tensor] = {}
    order = torch.tensor(pictures, dtype=torch.long)
    batches = indexed(setup.split, setup.config.eval_batch_size, order) if pictures else ()
    for index, x, _ in batches:
        shown = setup.data.picture(x)
        share = setup.config.thumbnail / max(shown.shape[2:])
        if share < 1:
            size = [max(1, round(share * side)) for side in shown.shape[2:]]
            shown = F.interpolate(shown, size=size, mode="bilinear", antialias=True)
        small |= {str(i): as_bytes(p) for i, p in zip(index.tolist(), shown, strict=True)}
    return small


def _network(setup: Setup, store: RunStore) -> nn.Module:
    model = setup.build()
    model.load_state_dict(store.read_tensors(setup.model_cell.name, "model.safetensors"))
    return model


def _done(setup: Setup, cell: Cell, stage: str, rows: Sequence[Any] = ()) -> None:
    setup.registry.notify("polykit_measured", cell=cell.name, stage=stage, rows=list(rows))
