"""The live display draws on a terminal only, and always remembers where the run is."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from polykit.cli import progress
from polykit.registry import Registry


def told(monkeypatch, *, terminal, quiet=False):
    """Tell a display the story of a run; return what it drew, and the display."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    monkeypatch.setattr(progress, "stderr_console", lambda: console)
    display, registry = progress.ProgressDisplay(quiet=quiet), Registry()
    assert registry.register(display, "progress").status == "ok"
    cells = ["seed-0-dense", "seed-0-snip-0.1"]
    epoch = {"phase": "train", "epoch": 3, "epochs": 30, "losses": {"loss": 0.25}, "model": None}
    figures = {"numbers": {"density": 0.25, "loss": 0.75, "penalty": 0.0125}}
    mask = SimpleNamespace(density=0.1001)
    for hook, more in (
        ("polykit_run_started", {"path": Path("runs/a"), "config": {}, "cells": cells}),
        ("polykit_epoch", {"cell": cells[0], **epoch}),
        ("polykit_measured", {"cell": cells[0], "stage": "dense", "rows": []}),
        ("polykit_pruning", {"cell": cells[1], "pruner": "cs", "step": 2, "steps": 30, **figures}),
        (
            "polykit_pruned",
            {"cell": cells[1], "pruner": "snip", "density": 0.1, "achieved": 0.1001, "mask": mask},
        ),
        ("polykit_measured", {"cell": cells[1], "stage": "pruned", "rows": []}),
        ("polykit_measured", {"cell": cells[1], "stage": "retrained", "rows": []}),
    ):
        registry.notify(hook, **more)
        display._bar.refresh()
    finished = {"path": Path("runs/a"), "status": "complete", "failures": {}}
    registry.notify("polykit_run_finished", **finished)
    assert display.path == Path("runs/a")
    return screen.getvalue()


def test_terminal_shows_what_is_going_on(monkeypatch, caplog):
    drawn = told(monkeypatch, terminal=True)
    for words in (
        "seed-0-dense  train 3/30  loss 0.25",
        "seed-0-dense  measured dense",
        "seed-0-snip-0.1  cs 2/30  density 0.25  loss 0.75  penalty 0.0125",
        "seed-0-snip-0.1  pruned to density 0.1001",
        "1/2",
        "2/2",
    ):
        assert words in drawn
    assert not caplog.records  # no hook raised


@pytest.mark.parametrize(
    ("terminal", "quiet"), [(False, False), (True, True)], ids=["piped", "quiet"]
)
def test_nothing_is_drawn_where_nobody_looks(monkeypatch, terminal, quiet):
    assert told(monkeypatch, terminal=terminal, quiet=quiet).strip() == ""
