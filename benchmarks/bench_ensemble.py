"""Time training many small networks as one ensemble against training them one by one.

    python benchmarks/bench_ensemble.py [--networks 30] [--epochs 3] [--lenet SCALE …]

Scenario N2's network (10-128-32-2), 7,000 samples, one thread; dropout 0 and 0.5. With `--lenet`
the density study's perceptron of these scales on the digits instead. Both ways train the same
networks from the same seeds; the largest difference between their weights after one epoch is
printed, too.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import nn

from polykit.registry import Registry
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import train
from polykit.types import Data

CPU = torch.device("cpu")
CONFIG = TrainingConfig(lr=1e-3, batch_size=64)


def world() -> Data:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(10_000, 10, generator=draw), torch.randn(10_000, 2, generator=draw)
    cuts = ((0, 7_000), (7_000, 8_500), (8_500, 10_000))
    return Data("bench", *(TensorSplit(x[a:b], y[a:b]) for a, b in cuts), "regression", (10,), 2)


def networks(count: int, spec: str, data: Data) -> list[nn.Module]:
    plugin = Registry.discover().create("model", spec).instance
    made = []
    for seed in range(count):
        with seeded(seed, "init"):
            made.append(plugin.build(data.input_shape, data.outputs))
    return made


def one_by_one(models: list[nn.Module], data: Data, epochs: int) -> None:
    for seed, model in enumerate(models):
        train(model, data, CONFIG, epochs, seed=seed, device=CPU)


def together(models: list[nn.Module], data: Data, epochs: int) -> None:
    jobs = [Job(model, data, seed) for seed, model in enumerate(models)]
    train_together(jobs, CONFIG, epochs, device=CPU, together=len(jobs))


def gap(models: list[nn.Module], others: list[nn.Module]) -> float:
    pairs = zip(models, others, strict=True)
    return max(
        float((a - b).detach().abs().max())
        for model, other in pairs
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lenet", type=float, nargs="+", metavar="SCALE", default=())
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for a busy machine")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    torch.set_num_threads(1)
    data, specs = world(), [f"mlp:widths=128x32,dropout={dropout}" for dropout in (0.0, 0.5)]
    if arguments.lenet:
        data = Registry.discover().create("dataset", "digits").instance.load()
        specs = [f"lenet:scale={scale:g}" for scale in arguments.lenet]
    together(networks(2, specs[0], data), data, 1)  # what is loaded on first use
    print("| network | one by one (s) | together (s) | times faster | difference after an epoch |")
    print("|---|---:|---:|---:|---:|")
    for spec in specs:
        alone = networks(arguments.networks, spec, data)
        joined = copy.deepcopy(alone)
        one_by_one(alone, data, 1)
        together(joined, data, 1)
        difference = gap([m.requires_grad_(False) for m in alone], joined)
        seconds = []
        for method in (one_by_one, together):
            models = networks(arguments.networks, spec, data)
            start = clock()
            method(models, data, arguments.epochs)
            seconds.append(clock() - start)
        slow, fast = seconds
        print(f"| {spec} | {slow:.1f} | {fast:.2f} | {slow / fast:.1f} | {difference:.0e} |")


if __name__ == "__main__":
    main()
