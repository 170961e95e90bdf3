"""SNIP against one forward and backward pass written by hand and cut off at the target.

AlexNet with random weights, unit features.10:9, 32 random pictures as one batch, on the CPU. Both
run in turn, so that whatever else the machine does meets both. Prints a markdown table.

    python benchmarks/bench_snip.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from polykit.runtime.objectives import parse_objective
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit_builtins.pruners.snip import Snip

LAYER, UNIT = 10, 9


def contenders(images: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; the first is the pass written by hand."""
    model = torchvision.models.alexnet(weights=None).eval()
    x = torch.randn(images, 3, 224, 224)
    features = model.features[: LAYER + 1]
    weights = [layer.weight for layer in features if isinstance(layer, torch.nn.Conv2d)]
    path = trace(model, x)
    objective = parse_objective(f"features.{LAYER}:{UNIT}", "classification", path)
    cut = candidates(model, path, "kernel", target=objective.target)
    full = cut.full()
    ignored = torch.Generator()

    def by_hand() -> tuple[Tensor, ...]:
        return torch.autograd.grad(features(x)[:, UNIT].mean(), weights)

    def scores() -> object:
        return Snip().scores(
            model, objective, [(x, x)], candidates=cut, mask=full, generator=ignored
        )

    def prune() -> object:
        return Snip().prune(
            model, objective, [(x, x)], density=0.1, candidates=cut, generator=ignored
        )

    return {
        "forward and backward by hand": by_hand,
        "SNIP: scores of all kernels": scores,
        "SNIP: scores, and the mask of density 0.1": prune,
    }


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--images", type=int, default=32, help="pictures (default 32)")
    parser.add_argument("--repeats", type=int, default=15, help="rounds; the median is shown")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    calls = contenders(options.images)
    for call in calls.values():
        call()  # warm
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    first = next(iter(times.values()))
    print(f"{options.images} pictures, {options.threads} thread(s), torch {torch.__version__}\n")
    print("| | seconds | ratio |\n|---|---:|---:|")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        print(f"| {name} | {statistics.median(taken):.3f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
