"""The live progress display: a plugin like any other, told of the run by its hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from polykit.api import hookimpl
from polykit.cli.output import stderr_console

if TYPE_CHECKING:
    from torch import nn

    from polykit.types import Mask


class ProgressDisplay:
    """Draws a bar of the cells done, and what the current one is at, on a terminal's stderr.

    Without a terminal, or when `quiet`, it draws nothing; `path` is kept either way.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.path: Path | None = None
        self._cells: Sequence[str] = ()
        self._done: set[str] = set()
        console = stderr_console()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)

    @hookimpl
    def polykit_run_started(
        self, path: Path, config: Mapping[str, Any], cells: Sequence[str]
    ) -> None:
        """Show the bar."""
        self.path, self._cells = path, cells
        self._bar.update(self._task, total=len(cells))
        self._bar.start()

    @hookimpl
    def polykit_epoch(
        self,
        cell: str,
        phase: str,
        epoch: int,
        epochs: int,
        losses: Mapping[str, float],
        model: nn.Module,
    ) -> None:
        """Show the epoch and its training loss."""
        self._say(f"{cell}  {phase} {epoch}/{epochs}  loss {losses['loss']:.3g}")

    @hookimpl
    def polykit_pruning(
        self, cell: str, pruner: str, step: int, steps: int, numbers: Mapping[str, float]
    ) -> None:
        """Show how far a pruner has come, and its figures."""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        self._say(f"{cell}  {pruner} {step}/{steps}  {figures}")

    @hookimpl
    def polykit_pruned(
        self, cell: str, pruner: str, density: float, achieved: float, mask: Mask | None
    ) -> None:
        """Show the density that was reached."""
        self._say(f"{cell}  pruned to density {achieved:.4g}")

    @hookimpl
    def polykit_measured(self, cell: str, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show what was measured, and count the cell: those of its group may take a while."""
        self._count(cell)
        self._say(f"{cell}  measured {stage}")

    @hookimpl
    def polykit_cell_finished(self, cell: str, failure: str | None) -> None:
        """Count the cell, wherever it was worked on."""
        self._count(cell)
        self._say(f"{cell}  {'done' if failure is None else 'failed'}")

    @hookimpl
    def polykit_run_finished(self, path: Path, status: str, failures: Mapping[str, str]) -> None:
        """Remove the bar."""
        self.stop()

    def stop(self) -> None:
        """Remove the bar, however the run ended."""
        self._bar.stop()

    def _count(self, cell: str) -> None:
        self._done.add(cell)
        self._bar.update(self._task, completed=len(self._done))

    def _say(self, text: str) -> None:
        self._bar.update(self._task, description=text)
