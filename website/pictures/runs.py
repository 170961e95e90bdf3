"""The runs that the pictures are drawn from, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import polykit
from polykit.runtime.store import RunStore

DENSITIES = (0.5, 0.2, 0.1, 0.05)
SEEDS = (0, 1, 2)
"""Of the repetitions; single networks that are shown are those of the first."""

_DIGITS: Mapping[str, Any] = {
    "model": "mlp",
    "dataset": "digits",
    "densities": DENSITIES,
    "seeds": SEEDS,
    "metrics": ("hoyer",),
    "epochs": 30,
    "retrain_epochs": 0,
}
_AT_INIT: Mapping[str, Any] = {"prune_at": "init", "epochs": 10}
_METRICS = (
    "ig",
    "capacity",
    "feature-dimensionality",
    "monosemanticity",
    "hoyer",
    "selectivity",
    "interaction-basis",
    "synchronisation",
)
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "scored": {"pruners": ("magnitude", "force", "snip", "actgrad")},
    "structured": {"pruners": ("structured",)},
    "continuous-sparsification": {
        "pruners": ("continuous-sparsification:epochs=15,searches=5",),
        "densities": (0.5, 0.2, 0.1),
    },
    "iterative-magnitude": {
        "pruners": ("iterative-magnitude:rounds=5",),
        "retrain_epochs": 10,
        **_AT_INIT,
    },
    "prune-and-grow": {"pruners": ("prune-and-grow:rounds=5",), "retrain_epochs": 10, **_AT_INIT},
    "edge-popup": {"pruners": ("edge-popup:epochs=15",), **_AT_INIT},
    "measured": {"pruners": ("magnitude", "force"), "metrics": _METRICS},
}


@dataclass
class Runs:
    """Runs by name, in a folder of their own."""

    folder: Path
    _made: dict[str, polykit.Run] = field(default_factory=dict)

    def __getitem__(self, name: str) -> polykit.Run:
        """Return a run, whose cells have all come out."""
        if name not in self._made:
            made = polykit.analyze(out=self.folder / name, **{**_DIGITS, **_SETTINGS[name]})
            if made.failures:
                raise RuntimeError(f"{name}: {made.failures}")
            self._made[name] = made
        return self._made[name]

    def tensors(self, name: str, cell: str, file: str) -> dict[str, Tensor]:
        """Return the tensors that a cell of a run has left."""
        return RunStore.open(self[name].path).read_tensors(cell, file)
