"""Which score tells parts that a unit has from parts that were made, on planted units.

    python benchmarks/check_specificity.py
    python benchmarks/check_specificity.py --networks 10 --tie 1

Each network has two-path units and, as controls, units that see both types by one shared pattern,
one type only, or by random hidden units, units with random weights, and two-path units asked about
other types. Every pruner cuts every unit apart; the table gives the area under the ROC curve of
each score (two-path against all others), and how often the rule of the verdict accepts either.
`--tie 1` makes the strengths of a picture's patterns equal, where a detector is most like a part.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from polykit.registry import Registry
from polykit.report.dissect.numbers import DISSOCIATED, SPECIFIC
from polykit.runtime.clusters.specificity import ownership
from polykit.testing.planted import part_scores, planted

SETTINGS = (
    ("cs", "contrast", 1.0),
    ("cs", "preserve", 1.0),
    ("force", "contrast", 0.03),
    ("snip", "contrast", 0.03),
    ("actgrad", "contrast", 0.03),
)
SCORES = {
    "auc": 1,
    "bce": -1,
    "kept": 1,
    "preservation": -1,
    "drift_rms": -1,
    "achieved_density": -1,
    "fidelity": 1,
    "dissociation": 1,
    "specificity": 1,
}
"""Statistics that might tell a real part from a made one, and which way."""


def main() -> None:
    """Print one row per pruner."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--tie", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry.discover()
    networks = [planted(seed, tie=asked.tie) for seed in range(asked.networks)]
    scores = [*SCORES, "ownership"]
    print(f"| pruner | density | {' | '.join(scores)} | two-path accepted | others accepted |")
    print("|---|" + "---:|" * (len(scores) + 3))
    for name, aim, density in SETTINGS:
        pruner = registry.create("pruner", name).instance
        parts = pd.concat(
            [
                part_scores(made, pruner, density, aim).assign(network=number)
                for number, made in enumerate(networks)
            ],
            ignore_index=True,
        )
        parts["kept"] = -np.abs(np.log(parts["kept"].clip(0.01, 100)))  # as far from 1 either way
        signed = parts[list(SCORES)] * pd.Series(SCORES)
        units = signed.join(parts[["network", "index", "kind"]])
        table = units.groupby(["network", "index", "kind"]).min().reset_index()
        table["ownership"] = ownership(table["specificity"], table["dissociation"])
        real = table["kind"] == "two-path"
        own = (table["specificity"] >= SPECIFIC) & (table["dissociation"] >= DISSOCIATED)
        roc = [roc_auc_score(real, table[score].fillna(table[score].min())) for score in scores]
        label = f"{name}, {aim}" if density == 1 else name
        print(
            f"| {label} | {parts['achieved_density'].mean():.3f} | "
            f"{' | '.join(f'{area:.2f}' for area in roc)} | {own[real].mean():.2f} | "
            f"{own[~real].mean():.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
