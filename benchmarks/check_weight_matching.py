"""Barriers between perceptrons on the digits before and after matching, and what matching costs.

Two seeds of each width, Adam at 0.001. The barrier is that of the training loss, at 25 points of
the line. Other code's numbers, with another training, stand beside them: what should agree is that
the barrier falls by an order of magnitude, the more the wider.

    python benchmarks/check_weight_matching.py [--epochs 30]
"""

from __future__ import annotations

import argparse
import copy
import time

import torch

from polykit.registry import Registry
from polykit.runtime.pairs.matching import match
from polykit.runtime.pairs.paths import barrier, between, holding
from polykit.runtime.pairs.symmetry import symmetries
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.ensemble import Job, train_together
from polykit.runtime.training.loop import evaluate

REFERENCE = {"64,64,64": (1.137, 0.061), "256,256": (0.433, 0.007), "512,512,512": (0.702, 0.005)}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry.discover()
    data = registry.create("dataset", "digits").instance.load()
    print("hidden        plain → matched   starts (best–worst)   other code       match s")
    for widths, (naive, low) in REFERENCE.items():
        pair = []
        for seed in (0, 1):
            with seeded(seed, "init"):
                model = registry.create("model", f"mlp:widths={widths}").instance
                pair.append(model.build(data.input_shape, data.outputs))
        jobs = [Job(network, data, seed) for seed, network in enumerate(pair)]
        train_together(jobs, TrainingConfig(), arguments.epochs, device=CPU)
        first, second = pair
        moves = symmetries(first, data.train.x[:8])
        a, b = (dict(network.named_parameters()) for network in pair)
        begun = time.perf_counter()
        found = match(a, b, moves, starts=arguments.starts, random=generator(0, "check"))
        spent = time.perf_counter() - begun

        def height(state: dict[str, torch.Tensor], first: torch.nn.Module = first) -> float:
            t = [step / 24 for step in range(25)]
            probe, losses = copy.deepcopy(first), []
            for at in t:
                with holding(probe, between(first.state_dict(), state, at)):
                    losses.append(evaluate(probe, data.train, data.task, CPU)[0])
            return barrier(t, losses)

        plain = height(second.state_dict())
        matched = height(moves.permute(second.state_dict(), found.permutations))
        tries = f"{min(found.tries):.2f}–{max(found.tries):.2f}"
        print(
            f"{widths:<13} {plain:.3f} → {matched:.3f}     {tries:<21} {naive} → {low}   "
            f"{spent:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
