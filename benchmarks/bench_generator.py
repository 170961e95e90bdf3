"""The search of all seed vectors at once, against one sample after the other as published.

The feature model of scenario N2 (32 inputs, 32 features, 2 labels), 3,200 samples, 1,000 steps of
Adam, float32, on the CPU. The loop (torch's autograd and its Adam, one sample at a time) is timed
on some samples and scaled up to all. Prints a markdown table, and last how long the exact solution
takes; leaves with 1 if the results differ by more than 1e-4.

    python benchmarks/bench_generator.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.datasets.ground_truth.card import rms
from polykit_builtins.datasets.ground_truth.maps import FeatureMaps
from polykit_builtins.datasets.ground_truth.seeds import search_seeds, solve_seeds

SAMPLES, STEPS, ALLOWED = 3200, 1000, 1e-4


def one_by_one(maps: FeatureMaps, features: Tensor, start: Tensor) -> Tensor:
    """Search for each sample by itself."""
    found = []
    for target, begin in zip(features, start, strict=True):
        seed = begin.clone().requires_grad_()
        adam = torch.optim.Adam([seed], lr=0.01)
        for _ in range(STEPS):
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(maps.activations(seed[None])[0], target)
            loss.backward()
            adam.step()
        found.append(seed.detach())
    return torch.stack(found)


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--loop-samples", type=int, default=16, help="samples of the loop to time")
    parser.add_argument("--repeats", type=int, default=5, help="timings of polykit; the median")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = FeatureModel(scenario="N2", samples=SAMPLES, encoder_epochs=1).make()
    maps, features = world.feature_model, world.features
    start = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    few = options.loop_samples

    one_by_one(maps, features[:1], start[:1])  # warm
    loop, expected = timed(lambda: one_by_one(maps, features[:few], start[:few]))
    loop *= SAMPLES / few
    runs = [timed(lambda: search_seeds(maps, features, start)) for _ in range(options.repeats)]
    batched, seeds = statistics.median(run[0] for run in runs), runs[0][1]
    solving, solved = timed(lambda: solve_seeds(maps, features))
    difference = float((seeds[:few] - expected).abs().max())

    print(f"{SAMPLES} samples, {STEPS} steps, {options.threads} thread(s), torch ", end="")
    print(f"{torch.__version__}; the loop timed on {few} samples and scaled up to all;")
    print(f"from the same start the seed vectors of these differ by at most {difference:.1e}\n")
    print("| search | seconds | times faster |\n|---|---:|---:|")
    print(f"| one sample after the other | {loop:.3g} | 1 |")
    print(f"| polykit, all at once | {batched:.3g} | {loop / batched:,.0f} |")
    print(f"| polykit, least squares | {solving:.3g} | {loop / solving:,.0f} |")
    gap = rms(maps.labels(seeds) - maps.labels(solved))
    print(f"\nAdam's labels are {gap:.3f} (RMS) from the exact solution's")
    return int(not difference <= ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
