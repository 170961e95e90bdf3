"""The toy model of superposition at published settings, beside counts from a run of other code.

N = 64, m = 16, k = 128, p = 1/32, batches of 512, 4,096 steps of LAMB at a rate along a cosine of
512 steps, as the published code trains. Printed: units with one feature only (r > 0.999) and dead
units, after 512 and after 4,096 steps, for every seed; what the other code gave with one seed and
fresh samples stands beside it.

    python benchmarks/check_toy_superposition.py [--seeds 3] [--power 1.1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import nn

from polykit.runtime.seeds import seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import evaluate
from polykit.types import Data
from polykit_builtins.datasets.toy_superposition import ToySuperposition
from polykit_builtins.metrics.attribution import response_matrix
from polykit_builtins.metrics.monosemanticity import monosemanticity
from polykit_builtins.models.toy_superposition import ToySuperposition as Net

SETTINGS = (
    (0.003, 0.0, 0.0, "0"),
    (0.03, 0.0, 0.0, "11"),
    (0.003, -1.0, 0.96, "0 (21 after 512 steps)"),
    (0.03, -1.0, 0.03, "3"),
    (0.03, -1.0, 0.0, "0, all dead"),
)
"""Rate, initial bias, bias decay, and the other code's count."""

CPU = torch.device("cpu")


def count(network: nn.Module, data: Data) -> tuple[int, int]:
    """Monosemantic units, and dead ones."""
    found = monosemanticity(response_matrix(network, data.features.encode, data.outputs))
    return int((found["monosemanticity"] > 0.999).sum()), int(found["silent"].sum())


def run(data: Data, lr: float, bias: float, decay: float, seeds: Sequence[int], steps: int):
    """Train networks of all seeds together; count after 512 steps and at the end."""
    networks = []
    for seed in seeds:
        with seeded(seed, "init"):
            networks.append(Net(initial_bias=bias).build(data.input_shape, data.outputs))
    config = TrainingConfig(
        optimizer="lamb", lr=lr, cosine_steps=512, bias_decay=decay, batch_size=512
    )
    early: dict[int, tuple[int, int]] = {}
    per_epoch = len(data.train) // 512

    def look(place: int, epoch: object) -> None:
        if epoch.epoch * per_epoch == 512:
            early[place] = count(networks[place], data)

    jobs = [Job(network, data, seed) for seed, network in zip(seeds, networks, strict=True)]
    train_together(jobs, config, steps // per_epoch, device=CPU, on_epoch=look)
    losses = [
        evaluate(network, data.test, "regression", CPU)[0] * data.outputs for network in networks
    ]
    return early, [count(network, data) for network in networks], losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--power", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=4096)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = ToySuperposition(power=arguments.power).load()
    print("lr     bias  decay  after 512: mono/dead   at the end: mono/dead, loss   other code   s")
    for lr, bias, decay, other in SETTINGS:
        begun = time.perf_counter()
        early, late, losses = run(data, lr, bias, decay, range(arguments.seeds), arguments.steps)
        first = ", ".join(f"{m}/{d}" for m, d in early.values())
        last = ", ".join(f"{m}/{d} {loss:.3f}" for (m, d), loss in zip(late, losses, strict=True))
        spent = time.perf_counter() - begun
        print(
            f"{lr:<6} {bias:<5} {decay:<6} {first:<22} {last:<30} {other:<12} {spent:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
