"""Compare attributions and polysemanticity with those published for scenarios L1 and N1.

The reference directory holds `L1.npz` and `N1.npz`: an encoder and a trained network each, their
integrated gradients (exact derivatives; Captum's riemann_right with 50 steps), the exact
differences in float32 and float64, and the statistics of every unit. Prints each largest error
and leaves with 1 if one is out of tolerance.

    python benchmarks/check_thesis_reference.py --reference DIR
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polykit_builtins.metrics.feature_dimensionality import total_feature_dimensionality
from polykit_builtins.metrics.ig import attribution_matrix, polysemanticity


def network(arrays: Any, prefix: str, dtype: torch.dtype) -> nn.Sequential:
    """Rebuild an MLP from its arrays: ReLU between the layers, or nothing if it is linear."""
    layers: list[nn.Module] = []
    for depth in range(sum(name.startswith(f"{prefix}_W") for name in arrays)):
        weight, bias = (torch.tensor(arrays[f"{prefix}_{kind}{depth}"]) for kind in "Wb")
        if depth and not arrays["linear"]:
            layers.append(nn.ReLU())
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(linear)
    return nn.Sequential(*layers).to(dtype).requires_grad_(False)


def errors(arrays: Any) -> list[tuple[str, float, float]]:
    """Return what was compared, the largest error, and what is allowed."""

    def matrix(dtype: torch.dtype, steps: int | None = None) -> Tensor:
        encoder, model = (network(arrays, name, dtype) for name in ("enc", "obs"))
        return attribution_matrix(model, encoder, arrays["gradients"].shape[1], steps=steps)

    def compare(name: str, ours: Any, key: str, allowed: float) -> tuple[str, float, float]:
        gap = np.abs(np.asarray(ours, dtype=np.float64) - arrays[key].astype(np.float64))
        return name, float(gap.max()), allowed

    riemann = matrix(torch.float32, 50)
    table = polysemanticity(riemann)
    ratio, entropy = "relative_polysemanticity", "entropy_polysemanticity"
    double, key64 = torch.float64, "gradients_closed_form_f64"
    return [
        compare("Riemann, 50 steps", riemann, "gradients", 1e-5),
        compare("exact, float32", matrix(torch.float32), "gradients_closed_form", 1e-5),
        compare("exact, float64", matrix(double), key64, 1e-12),
        compare("ratio of the Riemann sum", table["ratio"], ratio, 1e-4),
        compare("entropy (min–max) of it", table["entropy_normalised"], entropy, 1e-5),
        compare(
            "total feature dimensionality of it",
            total_feature_dimensionality(riemann),
            "total_feature_dimensionality",
            1e-6,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args().reference
    warnings.simplefilter("ignore")
    failed = False
    print("| scenario | what | largest error | allowed |\n|---|---|---:|---:|")
    for scenario in ("L1", "N1"):
        with np.load(directory / f"{scenario}.npz") as file:
            arrays = dict(file)
        for name, error, allowed in errors(arrays):
            failed |= not error <= allowed
            print(f"| {scenario} | {name} | {error:.1e} | {allowed:.0e} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
