"""Integrated gradients of all units at once, against Captum unit by unit and feature by feature.

160 units × 32 features: an MLP 10-128-32-2 behind an encoder 32-16-10, float32, on the CPU. The
Captum loop is timed on a random sample of its pairs and scaled up to all of them; `--pairs 5120`
times every pair. Prints a markdown table.

    python benchmarks/bench_ig.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from polykit_builtins.metrics.ig import attribution_matrix

FEATURES, STEPS = 32, 50


def networks() -> tuple[nn.Module, nn.Sequential]:
    """Return encoder and network."""
    encoder = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 10))
    hidden = [nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU()]
    return encoder.eval(), nn.Sequential(*hidden, nn.Linear(32, 2)).eval()


def captum_loop(encoder: nn.Module, model: nn.Sequential) -> list[Callable[[], Tensor]]:
    """Return the Captum call of every pair of a unit and a feature, in order."""
    calls = []
    for end in (1, 3):  # the passes end at the unit's layer, so nothing is computed in vain
        captum = IntegratedGradients(nn.Sequential(encoder, *model[:end]))
        for unit in range(model[end - 1].out_features):
            for feature in torch.eye(FEATURES).split(1):
                calls.append(
                    lambda captum=captum, unit=unit, feature=feature: captum.attribute(
                        feature, 0.0, target=unit, n_steps=STEPS, method="riemann_right"
                    ).sum()
                )
    return calls


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--pairs", type=int, default=256, help="pairs of the loop to time")
    parser.add_argument("--repeats", type=int, default=101, help="timings of polykit; the median")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    encoder, model = networks()
    calls = captum_loop(encoder, model)
    picked = torch.randperm(len(calls))[: options.pairs].tolist()
    calls[picked[0]]()  # warm
    captum = len(calls) * statistics.mean(seconds(calls[pair]) for pair in picked)

    riemann = attribution_matrix(model, encoder, FEATURES, steps=STEPS)
    reference = torch.stack([calls[pair]() for pair in picked[:64]])
    error = (riemann.flatten()[picked[:64]] - reference).abs().max().item()

    print(f"{len(calls)} pairs, {options.threads} thread(s), torch {torch.__version__}; ", end="")
    print(f"Captum timed on {len(picked)} random pairs and scaled up to all;")
    print(f"Riemann sum and Captum differ by at most {error:.1e} on 64 of them\n")
    print("| method | seconds | times faster |\n|---|---:|---:|")
    print(f"| Captum, per unit and feature, {STEPS} steps | {captum:.3g} | 1 |")
    for name, steps in (("exact", None), (f"Riemann, {STEPS} steps", STEPS)):
        run = lambda steps=steps: attribution_matrix(model, encoder, FEATURES, steps=steps)  # noqa: E731
        run()
        ours = statistics.median(seconds(run) for _ in range(options.repeats))
        print(f"| polykit, {name} | {ours:.3g} | {captum / ours:,.0f} |")


if __name__ == "__main__":
    main()
