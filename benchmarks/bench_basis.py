"""Interaction bases of a 784-300-100-10 network on 5,000 inputs, against per-sample Jacobians.

The other ways take every sample's Jacobians by vmap(jacrev): one sums up G and M and decomposes
those, which is quick and squares the condition; one keeps triangular factors, as polykit does, and
gives the same result. The bound is METHODS' count of 15 GFLOP at the
rate of a float64 matrix product, measured in the same run. Seconds are CPU seconds of one thread,
the best of `--repeats`. With `--memory N` it says instead how far the peak of memory rises over the
inputs, for N inputs in batches of 1,000.

    python benchmarks/bench_basis.py
    python benchmarks/bench_basis.py --memory 1000; python benchmarks/bench_basis.py --memory 10000
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from polykit.runtime.degeneracy.bases import Basis, interaction_basis
from polykit.runtime.degeneracy.slopes import INPUT, find_bases
from polykit.runtime.degeneracy.triangular import append
from polykit.runtime.passes.trace import trace

WIDTHS = (784, 300, 100, 10)
GFLOP = 15
LAYERS = {INPUT: 0, "0": 2, "2": 4}
"""Layers, and where the rest of the network begins."""


def best(call: Callable[[], object], repeats: int) -> float:
    """The least CPU seconds of several calls."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return min(seconds)


def jacobians(model: nn.Sequential, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each layer's activations `[n, d + 1]` and Jacobians `[10 n, d + 1]`."""
    for layer, start in LAYERS.items():
        f, following = model[:start](x).detach(), model[start]
        behind = model[start + 1 :]
        slopes = vmap(jacrev(model[start:]), chunk_size=1000)(f).flatten(0, 1)
        along = vmap(jacrev(behind), chunk_size=1000)(following(f).detach()).flatten(0, 1)
        one = along @ following.bias.detach()
        yield (
            layer,
            torch.cat([torch.ones_like(f[:, :1]), f], dim=1),
            torch.cat([one[:, None], slopes], dim=1),
        )


def from_grams(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Return D_M from the eigenvectors of G and M, after finding the directions, too."""
    found = {}
    for layer, f, J in jacobians(model, x):
        values, U = torch.linalg.eigh(f.T @ f / len(f))
        back = U * values.sqrt()
        spectrum, V = torch.linalg.eigh(back.T @ (J.T @ J / len(f)) @ back)
        _ = spectrum.clamp(min=0).sqrt()[:, None] * (V.T @ (U / values.sqrt()).T)
        found[layer] = spectrum.flip(0)
    return found


def from_factors(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Return D_M from triangular factors of activations and Jacobians."""
    found = {}
    for layer, f, J in jacobians(model, x):
        blank = f.new_zeros(f.shape[1], f.shape[1])
        F, R = (append(blank, rows) / len(x) ** 0.5 for rows in (f, J))
        found[layer] = interaction_basis(F, R, len(x)).spectrum
    return found


def compare(repeats: int) -> None:
    torch.manual_seed(0)
    model, x = network(), torch.randn(5000, WIDTHS[0], dtype=torch.float64)
    passed = trace(model, x)

    def ours() -> dict[str, Basis]:
        return find_bases(model, [x], passed, list(LAYERS), ones="exo")

    square = torch.randn(2000, 2000, dtype=torch.float64)
    rate = 16 / best(lambda: square @ square, 5)
    bound = GFLOP / rate
    bases = ours()
    seconds = best(ours, repeats)
    others = {}
    for way in (from_grams, from_factors):
        theirs = way(model, x)
        for layer, basis in bases.items():
            spectrum = theirs[layer][: basis.rank]
            gap = float((spectrum - basis.spectrum).abs().max() / spectrum[0])
            assert gap < 1e-10, f"{layer}: the spectra differ by {gap}"
        others[way] = best(lambda way=way: way(model, x), 2)
    print(f"torch {torch.__version__}, one thread, {rate:.0f} GFLOP/s\n")
    print("| way | CPU seconds | ratio |\n|---|---:|---:|")
    print(f"| {GFLOP} GFLOP at that rate | {bound:.2f} | {bound / seconds:.2f} |")
    print(f"| polykit | {seconds:.2f} | 1 |")
    for way, name in ((from_grams, "G and M"), (from_factors, "factors")):
        print(f"| vmap(jacrev), {name} | {others[way]:.2f} | {others[way] / seconds:.1f} |")


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(WIDTHS):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def memory(samples: int) -> None:
    torch.manual_seed(0)
    model, x = network(), torch.randn(samples, WIDTHS[0], dtype=torch.float64)
    passed = trace(model, x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    find_bases(model, x.split(1000), passed, list(LAYERS))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{samples} inputs: {(after - before) / 1024:.0f} MiB over the inputs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timings, of which the best counts")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory for N inputs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.memory:
        memory(options.memory)
    else:
        compare(options.repeats)


if __name__ == "__main__":
    main()
