"""Compare `structured` with the pruning published for scenarios L1 and N1.

The reference directory holds `L1.npz` and `N1.npz`: a trained network each, and for every nominal
pruning ratio the units that torch-pruning kept in each hidden layer and the ratio of parameters
that this removed, with the importance as published and with one score per neuron ("fixed"). Every
mask and ratio must be equal. Prints what was compared and leaves with 1 if anything differs.

    python benchmarks/check_structured_reference.py --reference DIR
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from polykit.runtime.objectives import TaskLoss
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit_builtins.pruners.structured import Structured

IMPORTANCE: dict[str, Literal["published", "input-weight"]] = {
    "published": "published",
    "fixed": "input-weight",
}


def network(arrays: Any) -> nn.Sequential:
    """Rebuild the trained network: ReLU between the layers, or nothing if it is linear."""
    layers: list[nn.Module] = []
    for depth in range(len(arrays["observed_dims"]) - 1):
        weight, bias = (torch.tensor(arrays[f"obs_{kind}{depth}"]) for kind in "Wb")
        if depth and not arrays["linear"]:
            layers.append(nn.ReLU())
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(linear)
    return nn.Sequential(*layers).eval()


def differences(arrays: Any, version: str) -> tuple[int, int, float]:
    """Return how many units were compared, how many differ, and the largest gap of the ratios."""
    model, x = network(arrays), torch.tensor(arrays["X"][:8])
    found = trace(model, x)
    pruner = Structured(
        importance=IMPORTANCE[version], normalise=False, counts="units", overflow="skip"
    )
    compared, wrong, gap = 0, 0, 0.0
    for row, nominal in enumerate(arrays["prune_nominal"].tolist()):
        small = pruner.shrink(
            model,
            TaskLoss("regression"),
            [(x, torch.tensor(arrays["Y"][:8]))],
            density=1 - nominal,
            candidates=candidates(model, found, "unit"),
            generator=torch.Generator(),
        )
        for depth, layer in enumerate(found.layers[:-1]):
            expected = arrays[f"prune_{version}_mask{depth}"][row]
            kept = np.isin(np.arange(len(expected)), small.units[layer].numpy())
            compared, wrong = compared + len(expected), wrong + int((kept != expected).sum())
        gap = max(gap, abs(small.ratio - float(arrays[f"prune_{version}_ratio"][row])))
    return compared, wrong, gap


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args().reference
    warnings.simplefilter("ignore")
    failed = False
    print("| scenario | importance | units compared | that differ | largest gap of the ratio |")
    print("|---|---|---:|---:|---:|")
    for scenario in ("L1", "N1"):
        with np.load(directory / f"{scenario}.npz") as file:
            arrays = dict(file)
        for version in IMPORTANCE:
            compared, wrong, gap = differences(arrays, version)
            failed |= wrong > 0 or gap > 0
            print(f"| {scenario} | {version} | {compared} | {wrong} | {gap:.1e} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
