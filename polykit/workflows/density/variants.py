"""Models and datasets in the variants that a density study compares: widths, starts, splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polykit.api import Kind
from polykit.entries import Chosen
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.types import Data
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.plugins import Spaces, create, load_data


class Splits:
    """The data of every split, loaded when asked for; only the last one is kept.

    So is what the metrics make of it, their feature spaces.
    """

    def __init__(self, load: Callable[[int], Data], spaces: Callable[[], Spaces]) -> None:
        self._load, self._spaces = load, spaces
        self._last: tuple[int, Data, Spaces] | None = None

    def data(self, seed: int) -> Data:
        """Return the data of the split with this seed."""
        return self._of(seed)[1]

    def spaces(self, seed: int) -> Spaces:
        """Return what builds feature spaces for networks on this split."""
        return self._of(seed)[2]

    def _of(self, seed: int) -> tuple[int, Data, Spaces]:
        if self._last is None or self._last[0] != seed:
            self._last = None  # two splits are never held at once
            self._last = seed, self._load(seed), self._spaces()
        return self._last


def datasets(
    config: DensityConfig, registry: Registry, own: Data | None
) -> tuple[Callable[[int], Data], dict[str, Any]]:
    """Return what loads the data of a split, and what the run keeps of the dataset."""
    if own is not None:
        if config.data_seeds != (0,):
            raise UsageError("data of your own has one split; leave data_seeds out")
        return {0: own}.__getitem__, {"name": own.name, "distribution": ""}
    chosen = {
        seed: variant("dataset", config.dataset, registry, config, split_seed=seed)
        for seed in config.data_seeds
    }
    return lambda seed: load_data(chosen[seed]), chosen[config.data_seeds[0]].record


def variant(
    kind: Kind, spec: str, registry: Registry, config: DensityConfig, **values: Any
) -> Chosen:
    """Make a model or dataset with some of its options set; it must have them.

    The one value that a study does not vary may be missing: the data's only split, seed 0.
    """
    found, written = registry.locate(kind, spec)
    missing = [name for name in values if name not in found.options.model_fields]
    if missing == ["split_seed"] and values["split_seed"] == 0:
        missing = []
        values = {}
    if missing:
        need = "--data-seed 0 only" if kind == "dataset" else "lenet, conv2 or resnet"
        raise UsageError(
            f"{kind} {spec!r} has no option {' or '.join(missing)}, which the study varies; take "
            f"{need}"
        )
    own = config.options.get(found.entry.name, {})
    double = [name for name in values if name in {**own, **written}]
    if double:
        raise UsageError(
            f"option {double[0]} of {found.entry.name}: the study sets that itself; use --scale, "
            f"--init or --data-seed"
        )
    return create(kind, spec, registry, {found.entry.name: {**own, **values}})
