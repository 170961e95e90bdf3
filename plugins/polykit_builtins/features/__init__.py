"""Entries of the built-in feature spaces. Torch-free: classes are named, not imported."""

from __future__ import annotations

from polykit.api import Entry, hookimpl

_HERE = "polykit_builtins.features"


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "feature-space",
            "truth",
            f"{_HERE}.truth:Truth",
            "the features the data was made from, where they are known",
            "Plettscher, §3.2",
        ),
        Entry(
            "feature-space",
            "classes",
            f"{_HERE}.classes:Classes",
            "class prototypes: from the mean input towards each class's mean",
        ),
    ]
