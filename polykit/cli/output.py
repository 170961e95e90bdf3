"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_WIDTH = 200
"""Columns of a table that no terminal limits."""


def say(text: str) -> None:
    """Print a line of the result, as it is."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line about the work, as it is."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print one JSON document; what is no number (NaN, ∞) becomes null."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def new_table(*columns: str) -> Table:
    """Return an empty table with these headings."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it needs if there is none."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    Console(width=wide, highlight=False).print(table)


@cache
def stderr_console() -> Console:
    """The console that logs and progress share, so that neither tears the other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {self.format(record)}"
        stderr_console().print(line, markup=False, soft_wrap=True)


def log_to_stderr(level: int) -> None:
    """Send polykit's log records of at least this level to stderr."""
    logger = logging.getLogger("polykit")
    logger.setLevel(level)
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    logger.addHandler(_Handler())
