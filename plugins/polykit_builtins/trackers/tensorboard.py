"""A run's numbers as TensorBoard's event files, in `tensorboard` below the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes event files, one per process, which TensorBoard shows as one run."""

    def __init__(self, path: Path) -> None:
        self._writer = SummaryWriter(str(path / "tensorboard"))

    def describe(self, config: Mapping[str, Any]) -> None:
        """Show the run's configuration as a text."""
        text = json.dumps(config, indent=2, default=str)
        self._writer.add_text("configuration", f"    {text}".replace("\n", "\n    "))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers and flush them: a worker may end at any time."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """Write how the run ended."""
        self._writer.add_text("status", status)
        self._writer.close()


def start(path: Path, config: Mapping[str, Any]) -> Board:
    """Begin to follow a run."""
    board = join(path)
    board.describe(config)
    return board


def join(path: Path) -> Board:
    """Follow a run in one more process."""
    return Board(path)
