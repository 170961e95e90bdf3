"""Entries of the built-in pruners. Torch-free: classes are named, not imported."""

from __future__ import annotations

from polykit.api import Entry, hookimpl

_HERE = "polykit_builtins.pruners"


@hookimpl
def polykit_entries() -> list[Entry]:
    """Return one Entry per plugin of this folder."""
    return [
        Entry(
            "pruner",
            "actgrad",
            f"{_HERE}.actgrad:ActGrad",
            "keep what carries activation × gradient",
            "Hamblin et al. 2023, Pruning for feature-preserving circuits, §3",
        ),
        Entry(
            "pruner",
            "force",
            f"{_HERE}.force:Force",
            "SNIP in rounds, with removed parts allowed back",
            "de Jorge et al. 2021, Progressive skeletonization, §4",
        ),
        Entry(
            "pruner",
            "magnitude",
            f"{_HERE}.magnitude:Magnitude",
            "keep the largest weights",
            "Han et al. 2015, Learning both weights and connections, §3",
        ),
        Entry(
            "pruner",
            "random",
            f"{_HERE}.random:Random",
            "keep a random choice: the control every claim needs",
        ),
        Entry(
            "pruner",
            "snip",
            f"{_HERE}.snip:Snip",
            "keep what the objective would miss most, to first order",
            "Lee et al. 2019, SNIP, eq. 4-6",
        ),
        Entry(
            "pruner",
            "structured",
            f"{_HERE}.structured:Structured",
            "remove whole units: a smaller network comes back",
            "Plettscher, thesis on pruning and polysemanticity, §3; Fang et al. 2023, DepGraph",
        ),
    ]
