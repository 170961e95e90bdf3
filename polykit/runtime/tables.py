"""The tidy tables that runs leave behind: their columns, by workflow."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

_CELL = {"seed": "int64", "pruner": "str", "density": "float64"}
_STATISTIC = {"metric": "str", "layer": "str", "statistic": "str", "value": "float64"}
_LOSSES = {"epoch": "int64", "loss": "float64", "validation_loss": "float64"}
_NETWORK = {
    "scenario": "str",
    "dropout": "float64",
    "seed": "int64",
    "arm": "str",
    "ratio": "float64",
}

TABLES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "analyze": {
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
    },
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
}
"""Workflow → table → column → type.

In the laboratory's tables `arm` is dense, pruned, random, scratch or unpruned, and `ratio` the
nominal pruning ratio, 0 for networks that were not pruned. `epochs` holds each metric's headline
statistic after each epoch (0: before the first), `rows` every statistic after the last one.
"""


def empty(workflow: str, table: str) -> pd.DataFrame:
    """Return one of the tables without rows."""
    columns = TABLES[workflow][table]
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
