"""Time a pruning trajectory against its floor and against the naive loop.

    python benchmarks/bench_trajectory.py [--samples 5000] [--repeats 3]

LeNet-300-100 on pictures of 28×28: 51 forward passes (2 % of each layer a step) are the floor, at
the rate at which this machine multiplies the matrices of such a pass, measured in between. The
naive loop copies the network, masks it and evaluates it at each step. CPU time, best of the
repeats, one thread. Then a network so small that many steps run together. Leaves with 1 where a
trajectory takes more than 1.5 times its floor or longer than the naive loop, or differs from it.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from polykit.registry import Registry
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import apply_mask, candidates
from polykit.runtime.pruning.trajectory import evaluate_steps, removal
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import seeded
from polykit.runtime.training.loop import evaluate
from polykit.types import Scores, Trace

CPU = torch.device("cpu")
BATCH = 1024


def made(spec: str, shape: tuple[int, ...], samples: int) -> tuple[nn.Module, TensorSplit]:
    with seeded(0, "bench"):
        model = Registry.discover().create("model", spec).instance.build(shape, 10).eval()
        x = torch.randn(samples, *shape)
    return model, TensorSplit(x, torch.arange(samples) % 10)


def scored(model: nn.Module, split: TensorSplit) -> tuple[Scores, Trace]:
    found = trace(model, split.x[:1])
    cut = candidates(model, found, competition="layer")
    return Scores({n: model.get_parameter(n).detach().abs() for n in cut.shapes}, cut), found


def naive(model: nn.Module, split: TensorSplit) -> list[float]:
    """The loop that the trajectory must equal."""
    scores, _ = scored(model, split)
    losses = []
    for step in range(51):
        pruned = copy.deepcopy(model)
        if step < 50:
            mask = scores.keep(1 - 0.02 * step)
            apply_mask(pruned, mask)
        else:
            apply_mask(pruned, removal(scores).mask(50))
        losses.append(evaluate(pruned, split, "classification", CPU, BATCH)[0])
    return losses


def trajectory(model: nn.Module, split: TensorSplit, *, together: bool) -> list[float]:
    scores, found = scored(model, split)
    result = evaluate_steps(
        model,
        split,
        "classification",
        removal(scores),
        device=CPU,
        flops=found.flops if together else None,
        batch_size=BATCH,
    )
    return [float(loss) for loss in result.loss]


def multiplications(model: nn.Module, split: TensorSplit) -> None:
    """The matrix products of 51 forward passes, and nothing else."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    inputs = [
        [torch.randn(len(x), layer.in_features) for layer in layers] for x in split.x.split(BATCH)
    ]
    for _ in range(51):
        for chunk in inputs:
            for x, layer in zip(chunk, layers, strict=True):
                torch.mm(x, layer.weight.T)


def best(repeats: int, *work: Callable[[], object]) -> list[float]:
    """The shortest time of each, taken in turns so that a busy moment hits all alike."""
    times = [[] for _ in work]  # type: list[list[float]]
    with torch.no_grad():
        for _ in range(repeats):
            for number, run in enumerate(work):
                start = time.process_time()
                run()
                times[number].append(time.process_time() - start)
    return [min(found) for found in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    right = True
    for spec, shape, samples in (
        ("lenet", (1, 28, 28), args.samples),
        ("mlp:widths=8", (1, 8, 8), 360),
    ):
        model, split = made(spec, shape, samples)
        floor, one, many, loop = best(
            args.repeats,
            lambda: multiplications(model, split),  # noqa: B023 - called before the next round
            lambda: trajectory(model, split, together=False),  # noqa: B023
            lambda: trajectory(model, split, together=True),  # noqa: B023
            lambda: naive(model, split),  # noqa: B023
        )
        gap = max(
            abs(a - b)
            for a, b in zip(
                naive(model, split), trajectory(model, split, together=True), strict=True
            )
        )
        flop = 51 * samples * 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1)
        print(f"{spec}, {samples:,} pictures: {flop / 1e9:.1f} GFLOP")
        print(f"  floor        {floor:8.3f} s   {flop / floor / 1e9:.0f} GFLOP/s")
        print(f"  step by step {one:8.3f} s   {one / floor:.2f} × floor")
        print(f"  trajectory   {many:8.3f} s   {many / floor:.2f} × floor")
        print(f"  naive loop   {loop:8.3f} s   largest difference of a loss {gap:.1e}")
        right &= many < loop and gap < 1e-5 and (spec != "lenet" or many < 1.5 * floor)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
