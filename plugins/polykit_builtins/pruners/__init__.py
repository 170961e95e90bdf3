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
        *(
            Entry(
                "pruner",
                name,
                f"{_HERE}.continuous_sparsification:ContinuousSparsification",
                f"{short}learn the mask by gradient descent while it hardens",
                "Savarese et al. 2020, Winning the lottery with continuous sparsification, §3",
            )
            for name, short in (
                ("continuous-sparsification", ""),
                ("cs", "continuous-sparsification by a short name: "),
            )
        ),
        Entry(
            "pruner",
            "edge-popup",
            f"{_HERE}.edge_popup:EdgePopup",
            "learn which weights of an untouched network to keep",
            "Ramanujan et al. 2020, What's hidden in a randomly weighted neural network?, §3",
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
            "iterative-magnitude",
            f"{_HERE}.iterative_magnitude:IterativeMagnitude",
            "train, remove the smallest weights, rewind the rest, repeat",
            "Frankle & Carbin 2019, The lottery ticket hypothesis, §2",
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
            "prune-and-grow",
            f"{_HERE}.prune_and_grow:PruneAndGrow",
            "exchange the smallest weights for others while training",
            "Mocanu et al. 2018, Sparse evolutionary training; Evci et al. 2020, RigL",
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
