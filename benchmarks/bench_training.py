"""Time polykit's training loop against the same loop written by hand in PyTorch.

Both train the default network on the digits, epoch by epoch in turn; the ratio is the median over
pairs. polykit's loop also validates each epoch, so the hand-written one does, too.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from polykit.registry import Registry
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import train
from polykit.types import Data

CPU = torch.device("cpu")


def by_hand(model: nn.Module, data: Data, epochs: int, batch_size: int) -> None:
    """Train and validate as one writes it in a notebook."""
    x, y = next(data.train.batches(len(data.train)))
    xv, yv = next(data.validation.batches(len(data.validation)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(x))
        total = 0.0
        for chunk in order.split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chunk]), y[chunk])
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.no_grad():
            outputs = model(xv)
            nn.functional.cross_entropy(outputs, yv).item()
            (outputs.argmax(1) == yv).float().mean().item()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    registry = Registry.discover()
    data = registry.create("dataset", "digits").instance.load()
    model = registry.create("model", "mlp").instance.build(data.input_shape, data.outputs)
    config = TrainingConfig()
    ours, theirs = [], []
    for pair in range(options.pairs + 1):
        a, b = copy.deepcopy(model), copy.deepcopy(model)
        hand = seconds(lambda b=b: by_hand(b, data, options.epochs, config.batch_size))
        poly = seconds(lambda a=a: train(a, data, config, options.epochs, seed=0, device=CPU))
        if pair:  # the first pair warms up
            ours.append(poly)
            theirs.append(hand)
    ratio = statistics.median(p / h for p, h in zip(ours, theirs, strict=True))
    print(f"{options.epochs} epochs of the default MLP on digits, {options.pairs} pairs\n")
    print("| loop | seconds (median) | ratio |\n|---|---:|---:|")
    print(f"| by hand | {statistics.median(theirs):.3f} | 1.00 |")
    print(f"| polykit | {statistics.median(ours):.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
