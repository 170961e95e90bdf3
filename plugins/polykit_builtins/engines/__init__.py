"""Entries of the built-in engines. Torch-free: classes are named, not imported."""

from __future__ import annotations

from polykit.api import Entry, hookimpl


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "engine",
            "serial",
            "polykit_builtins.engines.serial:Serial",
            "one cell after the other, in this process",
        ),
        Entry(
            "engine",
            "local",
            "polykit_builtins.engines.local:Local",
            "several cells at once, in processes of this machine",
        ),
        Entry(
            "engine",
            "dask",
            "polykit_builtins.engines.dask:Dask",
            "cells on the workers of a dask cluster",
            requires=("distributed",),
        ),
    ]
