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
        Entry(
            "feature-space",
            "dictionary",
            f"{_HERE}.dictionary:Dictionary",
            "directions that a sparse autoencoder finds in a layer: dictionary:LAYER",
            "Sharkey et al. 2022; Cunningham et al. 2023, arXiv:2309.08600; Bricken et al. 2023",
        ),
    ]
