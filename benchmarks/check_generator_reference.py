"""Compare the seed search with the published code's, for scenarios L1 and N1.

The reference directory holds `L1.npz` and `N1.npz`: a feature model each, ten feature vectors, the
starts of their search, the seed vectors it found in 1,000 steps, and the labels. Prints each
largest error and leaves with 1 if one is out of tolerance.

    python benchmarks/check_generator_reference.py --reference DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polykit_builtins.datasets.ground_truth.card import rms
from polykit_builtins.datasets.ground_truth.maps import FeatureMaps
from polykit_builtins.datasets.ground_truth.seeds import search_seeds, solve_seeds

ALLOWED = 1e-4


def feature_model(arrays: Any) -> FeatureMaps:
    depth = sum(name.startswith("fm_W") for name in arrays)
    weights, biases = (
        tuple(torch.tensor(arrays[f"fm_{kind}{layer}"]) for layer in range(depth)) for kind in "Wb"
    )
    return FeatureMaps(weights, biases, bool(arrays["linear"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args().reference
    failed, remarks = False, []
    print("| scenario | what | largest error | allowed |\n|---|---|---:|---:|")
    for scenario in ("L1", "N1"):
        with np.load(directory / f"{scenario}.npz") as file:
            arrays = dict(file)
        maps, features = feature_model(arrays), torch.tensor(arrays["seed_f"])
        seeds = search_seeds(maps, features, torch.tensor(arrays["seed_x0"]))
        found: dict[str, Tensor] = {"seed_x": seeds, "seed_y": maps.labels(seeds)}
        for key, name in (("seed_x", "seed vectors"), ("seed_y", "their labels")):
            error = float((found[key] - torch.tensor(arrays[key])).abs().max())
            failed |= not error <= ALLOWED
            print(f"| {scenario} | {name} | {error:.1e} | {ALLOWED:.0e} |")
        gap = rms(found["seed_y"] - maps.labels(solve_seeds(maps, features)))
        remarks.append(f"{scenario} {gap:.3f}")
    print(f"\nDistance (RMS) of these labels from the least-squares ones: {', '.join(remarks)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
