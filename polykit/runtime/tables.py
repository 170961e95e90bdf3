"""The tidy tables that runs leave behind: their columns, by workflow."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

_CELL = {"seed": "int64", "pruner": "str", "density": "float64"}
_STATISTIC = {"metric": "str", "layer": "str", "statistic": "str", "value": "float64"}
_LOSSES = {"epoch": "int64", "loss": "float64", "validation_loss": "float64"}
_UNIT = {"layer": "str", "unit": "int64"}
_NETWORK = {
    "scenario": "str",
    "dropout": "float64",
    "seed": "int64",
    "arm": "str",
    "ratio": "float64",
}
_DENSE = {
    "scale": "float64",
    "init": "str",
    "optimizer": "str",
    "seed": "int64",
    "data_seed": "int64",
}
_GRAPH = {**_CELL, "stage": "str", "basis": "str", "origin": "str"}
_SETTING = {"cutoff": "float64", "resolution": "float64"}
_NODE = {"layer": "str", "node": "int64"}
_VARIANT = {"unit": "str", "variant": "str", "kind": "str"}
_PART = {
    "unit": "str",
    "cluster": "int64",
    "control": "str",
    "read_unit": "str",
    "pruner": "str",
    "density": "float64",
}

_ANALYZE: Mapping[str, Mapping[str, str]] = {
    "rows": {**_CELL, "achieved_density": "float64", "stage": "str", **_STATISTIC},
    "units": {
        **_CELL,
        "stage": "str",
        "metric": "str",
        "layer": "str",
        "unit": "int64",
        "statistic": "str",
        "value": "float64",
    },
    "history": {**_CELL, "phase": "str", **_LOSSES, "validation_accuracy": "float64"},
    "epochs": {**_CELL, "phase": "str", "epoch": "int64", **_STATISTIC},
}
_COMPARED = {"other": "str", "route": "str", "draw": "int64"}

TABLES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "analyze": _ANALYZE,
    "laboratory": {
        "worlds": {"scenario": "str", "seed": "int64", "fact": "str", "value": "float64"},
        "networks": {
            **_NETWORK,
            "actual_ratio": "float64",
            "layer": "str",
            "units": "int64",
            "kept": "int64",
        },
        "rows": {**_NETWORK, **_STATISTIC},
        "history": {**_NETWORK, **_LOSSES},
        "epochs": {**_NETWORK, "epoch": "int64", **_STATISTIC},
    },
    "density": {
        "rows": {**_DENSE, **_STATISTIC},
        "effective": {
            **_DENSE,
            "pruner": "str",
            "parameters": "int64",
            "core": "float64",
            "density": "float64",
        },
        "trajectory": {
            **_DENSE,
            "pruner": "str",
            "step": "int64",
            "kept": "int64",
            "density": "float64",
            "loss": "float64",
            "accuracy": "float64",
        },
        "history": {**_DENSE, **_LOSSES, "validation_accuracy": "float64"},
        "correct": {**_DENSE, "sample": "int64", "correct": "bool"},
        "classes": {
            **_DENSE,
            "mask": "str",
            "class": "int64",
            "auc": "float64",
            "iou": "float64",
            "chance": "float64",
        },
        "tickets": {**_DENSE, "network": "str", **_STATISTIC},
        "alike": {**_DENSE, "network": "str", **_STATISTIC, "units": "int64"},
    },
    "basis": {
        "rows": _ANALYZE["rows"],
        "graphs": {**_GRAPH, "layer": "str", "statistic": "str", "value": "float64"},
        "modules": {
            **_GRAPH,
            **_SETTING,
            "edges": "int64",
            "modules": "int64",
            "modularity": "float64",
            "between": "float64",
            "chance_modularity": "float64",
            "chance_between": "float64",
        },
        "nodes": {**_GRAPH, **_NODE, "name": "str", "size": "float64"},
        "edges": {
            **_GRAPH,
            **_NODE,
            "layer_behind": "str",
            "node_behind": "int64",
            "strength": "float64",
        },
        "members": {**_GRAPH, **_SETTING, **_NODE, "module": "int64"},
        "history": _ANALYZE["history"],
    },
    "clusters": {
        "rows": {**_UNIT, "statistic": "str", "value": "float64"},
        "clusters": {
            **_UNIT,
            "cluster": "int64",
            "size": "int64",
            "medoid": "int64",
            "activation": "float64",
            "stability": "float64",
            "purity": "float64",
            "class": "str",
            "name_purity": "float64",
            "name": "str",
        },
        "members": {
            **_UNIT,
            "rank": "int64",
            "picture": "int64",
            "activation": "float64",
            "cluster": "int64",
            "probability": "float64",
        },
        "sensitivity": {
            **_UNIT,
            "setting": "str",
            "clusters": "int64",
            "noise_share": "float64",
            "agreement": "float64",
        },
        "pictures": {"picture": "int64", "label": "int64", "class": "str", "source": "str"},
        "history": {**_LOSSES, "validation_accuracy": "float64"},
    },
    "dissect": {
        "rows": {
            **_PART,
            "objective": "str",
            "seed": "int64",
            "statistic": "str",
            "value": "float64",
        },
        "activations": {
            **_PART,
            "picture": "int64",
            "group": "str",
            "held_out": "bool",
            "before": "float64",
            "after": "float64",
        },
        "layers": {
            **_PART,
            "layer": "str",
            "kept": "int64",
            "effective": "int64",
            "parameters": "int64",
        },
        "overlaps": {
            "unit": "str",
            "pruner": "str",
            "density": "float64",
            "cluster_a": "int64",
            "cluster_b": "int64",
            "iou": "float64",
            "chance": "float64",
            "chance_low": "float64",
            "chance_high": "float64",
        },
    },
    "compare": {
        "rows": {
            **_COMPARED,
            "strength": "float64",
            "stage": "str",
            "statistic": "str",
            "value": "float64",
        },
        "path": {**_COMPARED, "t": "float64", "quantity": "str", "value": "float64"},
        "layers": {
            "other": "str",
            "route": "str",
            "layer_a": "str",
            "layer_b": "str",
            "cka": "float64",
        },
        "history": {
            "other": "str",
            "strength": "float64",
            "stage": "str",
            **_LOSSES,
            "validation_accuracy": "float64",
        },
    },
    "map": {name: {"point": "str", **columns} for name, columns in _ANALYZE.items()},
    "visualize": {
        "rows": {**_VARIANT, "statistic": "str", "value": "float64"},
        "images": {**_VARIANT, "number": "int64", "file": "str", "text": "str"},
    },
}
"""Workflow → table → column → type.

In the laboratory's tables `arm` is dense, pruned, random, scratch or unpruned, and `ratio` the
nominal pruning ratio, 0 for networks that were not pruned. `epochs` holds each metric's headline
statistic after each epoch (0: before the first), `rows` every statistic after the last one.

In the tables of a density study `density` is the share of the prunable weights that is left, `core`
their number at the effective density; both are missing where the threshold was never crossed.
`correct` tells of each validation sample whether the whole network gets it right. `classes` reads a
class's logit in the network masked to a class's subnetwork (or `whole`, or to a `random` mask):
AUC, and the IoU of both classes' masks beside chance. In `tickets` `network` is dense, ticket or
random; `alike` is Spearman's correlation of a unit statistic with the same units' in the dense one.

In the tables of `basis` `stage` is untrained, dense, pruned or retrained; `layer` in `graphs` is a
layer, two joined by an arrow, or all. `between` is the share of log strength that crosses modules;
what rewired links give stands beside it. `edges` lists those above the smallest cutoff, with the
`strength` in squared outputs. Nodes that no link leads to are no members.

In the tables of clusters `picture` is an index into the split looked at, `cluster` −1 is noise,
`medoid` the picture with the smallest sum of distances to its cluster (−1 for noise), `rank` 0 the
unit's strongest picture, and `agreement` the adjusted Rand index with the setting asked for.
Purities are missing where the data have no classes, stability for noise.

In the tables of a dissection `unit` is `layer:index`, `control` is own, unit, weights or labels,
`read_unit` the unit in which the part was sought, `density` what was asked for (1: the pruner
chose), and `group` cluster, other or neither, seen from the part's cluster. `before` is the dense
unit, `after` the unit masked to the part.

In the tables of a comparison `other` is what the first network is compared with, and `route` from
where to where: along the line to the other, whose units are matched, unmatched, or in a random
order (of several, by `draw`); in rows also `functions` and `random weights`, of which similarity
tells, and `to first` and `to other`, seen from the network that was trained on. `stage` is
compared, pulled (with `strength`; 0 is the control) or released, `t` the place on the line.
"""


def empty(workflow: str, table: str) -> pd.DataFrame:
    """Return one of the tables without rows."""
    columns = TABLES[workflow][table]
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
