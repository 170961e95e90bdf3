"""Integrated gradients of all units at once, against Captum unit by unit and feature by feature.

Two sizes of the thesis's scenarios, float32, on the CPU: N2, 160 units × 32 features, an MLP
10-128-32-2 behind an encoder 32-16-10; N4, 768 units × 128 features, an MLP 10-512-128-128-2 behind
an encoder 128-64-10. Two loops stand for the per-unit way: Captum's attribution to a neuron of the
whole network, and a lean one whose passes end at the unit's layer. Both are timed on a random
sample of pairs and scaled up to all of them. polykit is handed the network's trace, as its metrics
are. Prints a markdown table for each size.

    python benchmarks/bench_ig.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from captum.attr import IntegratedGradients, NeuronIntegratedGradients
from torch import Tensor, nn

from polykit.runtime.passes.trace import trace
from polykit_builtins.metrics.ig import attribution_matrix

STEPS = 50
SIZES = {"N2": (32, (10, 128, 32, 2)), "N4": (128, (10, 512, 128, 128, 2))}
"""Features, and widths from input to output."""

Call = Callable[[], Tensor]


def network(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def loops(encoder: nn.Module, model: nn.Sequential, features: int) -> tuple[list[Call], list[Call]]:
    """Return Captum's calls for every pair of a unit and a feature, in order: neuron and lean."""
    neuron: list[Call] = []
    lean: list[Call] = []
    whole = nn.Sequential(encoder, *model)
    for end in range(1, len(model), 2):
        of_neuron = NeuronIntegratedGradients(whole, model[end - 1])
        of_output = IntegratedGradients(nn.Sequential(encoder, *model[:end]))
        for unit in range(model[end - 1].out_features):
            for row in torch.eye(features).split(1):
                options = {"baselines": 0.0, "n_steps": STEPS, "method": "riemann_right"}
                neuron.append(partial(of_neuron.attribute, row, unit, **options))
                lean.append(partial(of_output.attribute, row, target=unit, **options))
    return neuron, lean


def compare(size: str, pairs: int, repeats: int, clock: Callable[[], float]) -> None:
    """Time all at one size and print a table."""

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    features, widths = SIZES[size]
    torch.manual_seed(0)
    encoder, model = network((features, features // 2, widths[0])), network(widths)
    passed = trace(model, torch.zeros(1, widths[0]))
    neuron, lean = loops(encoder, model, features)
    picked = torch.randperm(len(lean))[:pairs].tolist()
    rounds: dict[str, list[float]] = {"neuron": [], "lean": [], "exact": [], "Riemann": []}
    ours = {
        "exact": partial(attribution_matrix, model, encoder, features, passed=passed),
        "Riemann": partial(
            attribution_matrix, model, encoder, features, passed=passed, steps=STEPS
        ),
    }
    riemann = ours["Riemann"]().flatten()
    assert riemann.numel() == len(lean)
    calls = [(pair, loop[pair]) for pair in picked[:32] for loop in (neuron, lean)]
    errors = [float((riemann[pair] - call().sum()).abs()) for pair, call in calls]
    ours["exact"]()
    for index, pair in enumerate(picked):  # in turns, so that a busy minute hits all of them
        rounds["neuron"].append(seconds(neuron[pair]))
        rounds["lean"].append(seconds(lean[pair]))
        if index < repeats:
            for name, call in ours.items():
                rounds[name].append(seconds(call))
    spent = {name: len(lean) * statistics.mean(rounds[name]) for name in ("neuron", "lean")}
    spent |= {name: statistics.median(rounds[name]) for name in ours}

    print(f"{size}: {len(lean)} pairs, {torch.get_num_threads()} thread(s), ", end="")
    print(f"torch {torch.__version__}, {clock.__name__};")
    print(f"the loops timed on {len(picked)} random pairs and scaled up to all;")
    print(f"Riemann sum and Captum differ by at most {max(errors):.1e} on {len(errors)} calls\n")
    print("| method | seconds | × the neuron loop | × the lean loop |\n|---|---:|---:|---:|")
    names = {
        "neuron": f"Captum, neuron attribution, {STEPS} steps",
        "lean": f"Captum, passes cut off at the unit's layer, {STEPS} steps",
        "exact": "polykit, exact",
        "Riemann": f"polykit, Riemann, {STEPS} steps",
    }
    for name, text in names.items():
        times = (f"{spent[loop] / spent[name]:,.3g}" for loop in ("neuron", "lean"))
        print(f"| {text} | {spent[name]:.3g} | {' | '.join(times)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--pairs", type=int, default=256, help="pairs of the loops to time")
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
