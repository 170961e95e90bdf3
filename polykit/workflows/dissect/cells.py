"""What each cell of a dissection does: find one part and measure it, or compare a unit's parts."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from polykit.errors import PolykitError
from polykit.runtime.clusters.specificity import chance_overlap
from polykit.runtime.progress import watching
from polykit.runtime.pruning.extraction import extract
from polykit.runtime.pruning.masking import load_mask, mask_bytes
from polykit.runtime.pruning.subnetworks import subnetwork_bytes
from polykit.runtime.seeds import derive, generator
from polykit.runtime.store import CellResult, RunStore
from polykit.workflows.dissect.measures import measure, random_masks
from polykit.workflows.dissect.setup import Cell, OverlapCell, Setup
from polykit.workflows.sweep import Phase, groups_of, one_by_one, record

MASK = "mask.safetensors"
SUBNETWORK = "subnetwork.safetensors"


def describe(setup: Setup, command: str) -> dict[str, Any]:
    """Return the content of `run.json` at the start of a run."""
    common = record(
        "dissect",
        setup.config,
        setup.plugins,
        setup.cells,
        command,
        setup.device,
        setup.threads,
    )
    return {
        **common,
        "units": [str(unit) for unit in setup.units],
        "controls": {str(unit): [str(o) for o in setup.others[unit]] for unit in setup.units},
        "enough": setup.config.enough,
        "held_out": setup.config.held_out,
        "learned": [name for name, c in setup.pruners.items() if c.instance.minimises],
    }


def phases(setup: Setup, store: RunStore) -> list[Phase]:
    """Return the work of the run: parts, then what those of a unit share."""
    parts = partial(one_by_one, partial(part_cell, setup, store))
    overlaps = partial(one_by_one, partial(overlap_cell, setup, store))
    return [
        Phase(parts, groups_of(setup.part_cells, 1)),
        Phase(overlaps, groups_of(setup.overlap_cells, 1)),
    ]


def part_cell(setup: Setup, store: RunStore, cell: Cell) -> None:
    """Find one part, measure it, and keep its mask; of the unit's own, the small network, too."""
    surgery, seed = setup.surgery(cell), setup.config.seed
    told = partial(setup.registry.notify, "polykit_pruning", cell=cell.name, pruner=cell.pruner)
    pruner = setup.pruners[cell.pruner].instance
    with watching(told):
        mask = surgery.find(
            pruner, cell.density, setup.config.objective, generator(seed, "part", cell.name)
        )
    setup.registry.notify(
        "polykit_pruned",
        cell=cell.name,
        pruner=cell.pruner,
        density=cell.density,
        achieved=mask.density,
        mask=mask,
    )
    found = measure(surgery, mask, np.random.default_rng(derive(seed, "draws", cell.name)))
    statistics = dict(found.statistics)
    notices: list[str] = []
    files = {MASK: mask_bytes(mask, {"cell": cell.name})}
    if cell.control == "own":
        statistics |= random_masks(
            surgery, mask, setup.config.randoms, generator(seed, "random", cell.name)
        )
        try:
            small = extract(surgery.model, mask, surgery.pictures.x[:8], surgery.target)
            files[SUBNETWORK] = subnetwork_bytes(small)
        except PolykitError as error:
            notices.append(f"{cell.name}: no small network: {error}")
    place: dict[str, Any] = {
        "unit": str(cell.unit),
        "cluster": cell.cluster,
        "control": cell.control,
        "read_unit": str(cell.read),
        "pruner": cell.pruner,
        "density": cell.density,
    }
    rows = pd.DataFrame({"statistic": list(statistics), "value": list(statistics.values())})
    tables = {
        "rows": rows.assign(**place, objective=setup.config.objective, seed=seed),
        "activations": found.activations.assign(**place),
        "layers": found.layers.assign(**place),
    }
    store.write_cell(cell.name, CellResult(tables, files, tuple(notices)))
    setup.registry.notify(
        "polykit_measured", cell=cell.name, stage=cell.control, rows=rows.to_dict("records")
    )


def overlap_cell(setup: Setup, store: RunStore, cell: OverlapCell) -> None:
    """Compare the parts of a unit's clusters, two by two, for each pruner and density."""
    candidates = setup.candidates(cell.unit)
    rng = np.random.default_rng(derive(setup.config.seed, "overlaps", cell.unit))
    rows = []
    for a, b in itertools.combinations(cell.parts, 2):
        if (a.pruner, a.density) != (b.pruner, b.density):
            continue
        masks = [load_mask(store.file(part.name, MASK)) for part in (a, b)]
        shared = chance_overlap(masks[0], masks[1], candidates, rng)
        rows.append(
            {
                "unit": str(cell.unit),
                "pruner": a.pruner,
                "density": a.density,
                "cluster_a": a.cluster,
                "cluster_b": b.cluster,
                "iou": shared.iou,
                "chance": shared.chance,
                "chance_low": shared.low,
                "chance_high": shared.high,
            }
        )
    store.write_cell(cell.name, CellResult({"overlaps": pd.DataFrame(rows)}))
    setup.registry.notify("polykit_measured", cell=cell.name, stage="overlaps", rows=rows)
