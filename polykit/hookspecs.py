"""The hooks a plugin may implement. Registration returns plain records; the rest are notices.

A notice hook that raises is reported with the plugin's name and does not lose the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from polykit.api import Entry, Kind

if TYPE_CHECKING:
    from torch import nn

    from polykit.types import Mask

hookspec = pluggy.HookspecMarker("polykit")


@hookspec
def polykit_entries() -> Iterable[Entry]:  # type: ignore[empty-body]
    """Return the `Entry` records of the plugins that this module brings."""


@hookspec(firstresult=True)
def polykit_resolve(kind: Kind, spec: str) -> Entry | None:
    """Return an Entry for a name nobody registered, or None.

    For families of plugins that are not worth an Entry each, such as all torchvision models. Its
    target's `argument` field receives the whole `spec`.
    """


@hookspec
def polykit_run_started(path: Path, config: Mapping[str, Any], cells: Sequence[str]) -> None:
    """A run begins (or goes on, after an interruption): where, with what, and its cells' names."""


@hookspec
def polykit_work_started(path: Path, config: Mapping[str, Any]) -> None:
    """Another process than the one that drives the run begins to work on it."""


@hookspec
def polykit_epoch(
    cell: str, phase: str, epoch: int, epochs: int, losses: Mapping[str, float], model: nn.Module
) -> None:
    """A training epoch ended. `phase` is train or retrain; `model` is for looking, not changing."""


@hookspec
def polykit_pruning(
    cell: str, pruner: str, step: int, steps: int, numbers: Mapping[str, float]
) -> None:
    """A pruner is at `step` of `steps`; `numbers` are its figures, such as density and loss.

    A pruner that searches may begin again at step 1; its last word may add figures of the result.
    """


@hookspec
def polykit_pruned(
    cell: str, pruner: str, density: float, achieved: float, mask: Mask | None
) -> None:
    """A network was pruned: the density asked for and achieved; no mask if it was made smaller."""


@hookspec
def polykit_measured(cell: str, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A network was measured: the tidy rows of this cell and stage (dense, pruned, retrained)."""


@hookspec
def polykit_cell_finished(cell: str, failure: str | None) -> None:
    """A cell is done, now or in an earlier part of the run, or `failure` says why it never will be.

    Told in the process that drives the run, as the start and the end of the run are; the other
    notices are told where the work is done, which may be another process.
    """


@hookspec
def polykit_run_finished(path: Path, status: str, failures: Mapping[str, str]) -> None:
    """A run ended: complete, failed or interrupted, and which cells failed with what message."""
