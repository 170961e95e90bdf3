"""The checks of each kind of plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polykit.api import Kind
from polykit.testing import metrics, pruners, sources
from polykit.testing.plugin import Plugin, expect

Check = Callable[[Plugin, Path], None]


def documented(plugin: Plugin, folder: Path) -> None:
    """Summary, class docstring, and each option's default and description are there."""
    entry, options = plugin.found.entry, plugin.found.options
    expect(bool(entry.summary.strip()), "the Entry has no summary")
    expect(len((options.__doc__ or "").strip()) > 20, f"{options.__name__} has no docstring")
    if options.argument:
        expect(
            options.argument in options.model_fields, f"argument {options.argument!r} is no option"
        )
    for name, field in options.model_fields.items():
        expect(not field.is_required(), f"option {name!r} has no default")
        expect(bool((field.description or "").strip()), f"option {name!r} has no description")


def recorded(plugin: Plugin, folder: Path) -> None:
    """What a run records of it makes it again."""
    instance, registry = plugin.create(folder), plugin.registry
    record = {
        "name": plugin.found.entry.name,
        "distribution": plugin.found.distribution,
        "options": instance.model_dump(mode="json"),
    }
    again = registry.recreate(plugin.found.entry.kind, record).instance
    expect(again == instance, f"{record['options']} makes {again!r}, not {instance!r}")


_ALWAYS: tuple[Check, ...] = (documented, recorded)

CHECKS: dict[Kind, tuple[Check, ...]] = {
    "pruner": (*_ALWAYS, *pruners.CHECKS),
    "metric": (*_ALWAYS, *metrics.CHECKS),
    "dataset": (*_ALWAYS, sources.loads),
    "model": (*_ALWAYS, sources.builds),
    "feature-space": (*_ALWAYS, sources.encodes),
    "engine": (*_ALWAYS, sources.maps),
    "command": (sources.callable_target,),
}
