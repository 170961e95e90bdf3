"""Every hook: documented, called with what it promises, and harmless when it raises."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from polykit import hookspecs
from polykit.api import Entry, hookimpl
from polykit.registry import Registry

HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("polykit_")}
NOTICES = {
    "polykit_run_started": {"path": Path(), "config": {"lr": 1}, "cells": ["a"]},
    "polykit_work_started": {"path": Path(), "config": {"lr": 1}},
    "polykit_epoch": {
        "cell": "a",
        "phase": "train",
        "epoch": 1,
        "epochs": 2,
        "losses": {"loss": 0.5},
        "model": None,
    },
    "polykit_pruning": {
        "cell": "a",
        "pruner": "cs",
        "step": 1,
        "steps": 30,
        "numbers": {"density": 0.5},
    },
    "polykit_pruned": {
        "cell": "a",
        "pruner": "snip",
        "density": 0.1,
        "achieved": 0.1,
        "mask": None,
    },
    "polykit_measured": {"cell": "a", "stage": "dense", "rows": [{"value": 1.0}]},
    "polykit_cell_finished": {"cell": "a", "failure": "it diverged"},
    "polykit_run_finished": {"path": Path(), "status": "complete", "failures": {}},
}
ANSWERS = ("polykit_entries", "polykit_resolve")


class Listener:
    def __init__(self, error=None):
        self.heard = []
        self.error = error

    def hear(self, hook, **arguments):
        self.heard.append((hook, arguments))
        if self.error:
            raise self.error

    @hookimpl
    def polykit_run_started(self, path, config, cells):
        self.hear("polykit_run_started", path=path, config=config, cells=cells)

    @hookimpl
    def polykit_work_started(self, path, config):
        self.hear("polykit_work_started", path=path, config=config)

    @hookimpl
    def polykit_epoch(self, cell, phase, epoch, epochs, losses, model):
        told = {"cell": cell, "phase": phase, "epoch": epoch, "epochs": epochs}
        self.hear("polykit_epoch", **told, losses=losses, model=model)

    @hookimpl
    def polykit_pruning(self, cell, pruner, step, steps, numbers):
        told = {"cell": cell, "pruner": pruner, "step": step, "steps": steps}
        self.hear("polykit_pruning", **told, numbers=numbers)

    @hookimpl
    def polykit_pruned(self, cell, pruner, density, achieved, mask):
        heard = {"cell": cell, "pruner": pruner, "density": density}
        self.hear("polykit_pruned", **heard, achieved=achieved, mask=mask)

    @hookimpl
    def polykit_measured(self, cell, stage, rows):
        self.hear("polykit_measured", cell=cell, stage=stage, rows=rows)

    @hookimpl
    def polykit_cell_finished(self, cell, failure):
        self.hear("polykit_cell_finished", cell=cell, failure=failure)

    @hookimpl
    def polykit_run_finished(self, path, status, failures):
        self.hear("polykit_run_finished", path=path, status=status, failures=failures)


def test_every_hook_is_known_here():
    assert set(HOOKS) == {*NOTICES, *ANSWERS}, "a new hook needs a test in this file"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook):
    assert len(inspect.getdoc(HOOKS[hook]) or "") > 20


@pytest.mark.parametrize("hook", NOTICES)
def test_notice_reaches_every_plugin_with_all_it_promises(hook):
    assert set(inspect.signature(HOOKS[hook]).parameters) == set(NOTICES[hook])
    registry, first, second = Registry(), Listener(), Listener()
    registry.register(first, "first")
    registry.register(second, "second")
    registry.notify(hook, **NOTICES[hook])
    assert first.heard == second.heard == [(hook, NOTICES[hook])]


@pytest.mark.parametrize("hook", NOTICES)
def test_notice_that_raises_is_reported_by_name_and_stops_nobody(hook, caplog):
    registry, last, first = Registry(), Listener(), Listener()
    registry.register(last, "last")
    registry.register(Listener(ValueError("too loud")), "rowdy", "third-party")
    registry.register(first, "first")
    registry.notify(hook, **NOTICES[hook])
    assert len(first.heard) == len(last.heard) == 1
    assert f"third-party:rowdy raised in {hook}: ValueError: too loud" in caplog.text
    assert caplog.text.count("WARNING") == 1


def test_interrupt_in_a_notice_is_not_swallowed():
    registry = Registry()
    registry.register(Listener(KeyboardInterrupt()), "impatient")
    with pytest.raises(KeyboardInterrupt):
        registry.notify("polykit_epoch", **NOTICES["polykit_epoch"])


def test_plugin_may_ask_for_fewer_arguments():
    heard = []

    class Terse:
        @hookimpl
        def polykit_measured(self, stage):
            heard.append(stage)

    registry = Registry()
    assert registry.register(Terse(), "terse").status == "ok"
    registry.notify("polykit_measured", **NOTICES["polykit_measured"])
    assert heard == ["dense"]


def test_entries_hook_registers():
    class Plugin:
        @hookimpl
        def polykit_entries(self):
            return [Entry("metric", "peak", "somewhere:Peak", "how peaked")]

    registry = Registry()
    registry.register(Plugin(), "mine", "my-dist")
    assert [(f.entry.name, f.distribution) for f in registry.entries()] == [("peak", "my-dist")]


def test_resolve_hook_is_asked_for_unknown_names_only():
    asked = []

    class Plugin:
        @hookimpl
        def polykit_entries(self):
            return [Entry("metric", "level", f"{__name__}:missing", "never imported here")]

        @hookimpl
        def polykit_resolve(self, kind, spec):
            asked.append((kind, spec))

    registry = Registry()
    registry.register(Plugin(), "mine")
    registry.find("metric", "level")
    assert asked == []
    with pytest.raises(Exception, match="no metric is called 'peak'"):
        registry.create("metric", "peak:x=1")
    assert asked == [("metric", "peak:x=1")]
