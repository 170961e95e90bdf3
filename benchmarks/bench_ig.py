"""Integrated gradients of all units at once, against Captum unit by unit and feature by feature.

Two sizes of the thesis's scenarios, float32, on the CPU: N2, 160 units × 32 features, an MLP
10-128-32-2 behind an encoder 32-16-10; N4, 768 units × 128 features, an MLP 10-512-128-128-2 behind
an encoder 128-64-10. The Captum loop is timed on a random sample of its pairs and scaled up to all
of them; `--pairs 5120` times every pair of N2. Prints a markdown table for each.

    python benchmarks/bench_ig.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from polykit_builtins.metrics.ig import attribution_matrix

STEPS = 50
SIZES = {"N2": (32, (10, 128, 32, 2)), "N4": (128, (10, 512, 128, 128, 2))}
"""Features, and widths from input to output."""


def network(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def captum_loop(
    encoder: nn.Module, model: nn.Sequential, features: int
) -> list[Callable[[], Tensor]]:
    """Return the Captum call of every pair of a unit and a feature, in order."""
    calls = []
    for end in range(1, len(model), 2):  # the passes end at the unit's layer: nothing in vain
        captum = IntegratedGradients(nn.Sequential(encoder, *model[:end]))
        for unit in range(model[end - 1].out_features):
            for feature in torch.eye(features).split(1):
                calls.append(
                    lambda captum=captum, unit=unit, feature=feature: captum.attribute(
                        feature, 0.0, target=unit, n_steps=STEPS, method="riemann_right"
                    ).sum()
                )
    return calls


def compare(size: str, pairs: int, repeats: int, clock: Callable[[], float]) -> None:
    """Time both at one size and print a table."""

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    features, widths = SIZES[size]
    torch.manual_seed(0)
    encoder, model = network((features, features // 2, widths[0])), network(widths)
    calls = captum_loop(encoder, model, features)
    picked = torch.randperm(len(calls))[:pairs].tolist()
    calls[picked[0]]()  # warm
    captum = len(calls) * statistics.mean(seconds(calls[pair]) for pair in picked)

    riemann = attribution_matrix(model, encoder, features, steps=STEPS)
    assert riemann.numel() == len(calls)
    reference = torch.stack([calls[pair]() for pair in picked[:64]])
    error = (riemann.flatten()[picked[:64]] - reference).abs().max().item()

    print(f"{size}: {len(calls)} pairs, {torch.get_num_threads()} thread(s), ", end="")
    print(f"torch {torch.__version__}, {clock.__name__};")
    print(f"Captum timed on {len(picked)} random pairs and scaled up to all;")
    print(f"Riemann sum and Captum differ by at most {error:.1e} on {len(reference)} of them\n")
    print("| method | seconds | times faster |\n|---|---:|---:|")
    print(f"| Captum, per unit and feature, {STEPS} steps | {captum:.3g} | 1 |")
    for name, steps in (("exact", None), (f"Riemann, {STEPS} steps", STEPS)):
        run = lambda steps=steps: attribution_matrix(model, encoder, features, steps=steps)  # noqa: E731
        run()
        ours = statistics.median(seconds(run) for _ in range(repeats))
        print(f"| polykit, {name} | {ours:.3g} | {captum / ours:,.0f} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--pairs", type=int, default=256, help="pairs of the loop to time")
    parser.add_argument("--repeats", type=int, default=51, help="timings of polykit; the median")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for a busy machine")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        clock = time.process_time if options.cpu else time.perf_counter
        compare(size, options.pairs, options.repeats, clock)


if __name__ == "__main__":
    main()
