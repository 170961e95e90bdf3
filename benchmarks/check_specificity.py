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

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from polykit.registry import Registry
from polykit.report.dissect.numbers import DISSOCIATED, SPECIFIC
from polykit.testing.planted import part_scores, planted

SETTINGS = (
    ("cs", "contrast", 1.0),
    ("cs", "preserve", 1.0),
    ("force", "contrast", 0.03),
    ("snip", "contrast", 0.03),
    ("actgrad", "contrast", 0.03),
)
SCORES = ("auc", "fidelity", "dissociation", "specificity")


def main() -> None:
    """Print one row per pruner."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--tie", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry.discover()
    networks = [planted(seed, tie=asked.tie) for seed in range(asked.networks)]
    print("| pruner | density | " + " | ".join(f"ROC {s}" for s in SCORES), end=" | ")
    print("two-path accepted | others accepted |\n|---|" + "---:|" * 7)
    for name, aim, density in SETTINGS:
        pruner = registry.create("pruner", name).instance
        table = pd.concat(part_scores(made, pruner, density, aim) for made in networks)
        real = table["kind"] == "two-path"
        own = (table["specificity"] >= SPECIFIC) & (table["dissociation"] >= DISSOCIATED)
        roc = " | ".join(f"{roc_auc_score(real, table[score]):.2f}" for score in SCORES)
        label = f"{name}, {aim}" if density == 1 else name
        print(
            f"| {label} | {table['density'].mean():.3f} | {roc} | {own[real].mean():.2f} | "
            f"{own[~real].mean():.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
