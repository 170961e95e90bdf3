"""Compare interaction bases with those of a reference run on a 20-16-12-5 network.

The reference directory holds `mlp_net.npz` (inputs and weights) and `basis.npz` (G, M and the
directions of three layers, with ones carried on to later layers or not). Every layer is computed in
closed form and by vector-Jacobian products. Prints each largest error and leaves with 1 if one is
out of tolerance.

    python benchmarks/check_basis_reference.py --reference DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polykit.runtime.degeneracy.slopes import INPUT, Factors, Ones, gather
from polykit.runtime.passes.trace import trace


def network(arrays: Any) -> nn.Sequential:
    """Rebuild the network in float64."""
    layers: list[nn.Module] = []
    for depth in range(3):
        weight, bias = (torch.tensor(arrays[f"{kind}{depth}"]) for kind in "Wb")
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Behind(nn.Module):
    """The network inside another one, so that it is not seen to be a chain."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def factors(model: nn.Sequential, x: Tensor, way: str, ones: Ones) -> list[Factors]:
    """Gather the factors of all layers in one of the two ways."""
    whole = model if way == "closed form" else Behind(model)
    names = (INPUT, "0", "2") if whole is model else (INPUT, "model.0", "model.2")
    found = gather(whole, x.split(123), trace(whole, x), names, ones=ones)
    return [found[name] for name in names]


def errors(model: nn.Sequential, x: Tensor, expected: Any) -> Iterator[tuple[str, float, float]]:
    """Yield what was compared, the largest error, and what is allowed."""
    modes: tuple[Ones, ...] = ("carry", "exo")
    for way in ("closed form", "vector-Jacobian"):
        for ones in modes:
            for number, found in enumerate(factors(model, x, way, ones)):
                place = f"{way}, {ones}, layer {number}"
                M = torch.tensor(expected[f"M{number}_{ones}"])
                C = torch.tensor(expected[f"C{number}_{ones}_sqrtM"]).T
                basis = found.basis()
                yield f"{place}: G", gap(found.F.T @ found.F, expected[f"G{number}"]), 1e-12
                yield f"{place}: M", gap(found.J.T @ found.J, M), 1e-12
                yield f"{place}: rank {basis.rank}", float(abs(basis.rank - len(C))), 0
                signs = (C * basis.forward).sum(dim=1, keepdim=True).sign()
                yield f"{place}: directions", gap(basis.forward * signs, C), 1e-8
                yield f"{place}: D_M", gap(basis.spectrum, expected[f"DM{number}_{ones}"]), 1e-8


def gap(ours: Tensor, theirs: Any) -> float:
    return float(np.abs(ours.numpy() - np.asarray(theirs)).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    directory = parser.parse_args().reference
    with np.load(directory / "mlp_net.npz") as file:
        net = dict(file)
    with np.load(directory / "basis.npz") as file:
        expected = dict(file)
    failed = False
    print("| what | largest error | allowed |\n|---|---:|---:|")
    for name, error, allowed in errors(network(net), torch.tensor(net["X"]), expected):
        failed |= not error <= allowed
        print(f"| {name} | {error:.1e} | {allowed:.0e} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
