"""Time one scenario of the laboratory from end to end, against the way it was published.

    python benchmarks/bench_laboratory.py [--recipe examples/thesis/n2.toml] [--seeds 3]
    python benchmarks/bench_laboratory.py --controls   # with the three controls, too

Generates the worlds, trains the dense networks, prunes them to every ratio and retrains them, with
and without dropout, and measures after each epoch. The published way does the same one sample, one
network and one unit after the other; its parts are timed on a few of each and scaled up to as many
as this run had: seed search by sample, training by epoch, Captum by unit and feature.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from torch import nn

from polykit import session
from polykit.api import hookimpl
from polykit.cli.run import read_recipe
from polykit.registry import Registry
from polykit.types import Data
from polykit.workflows.laboratory.config import LaboratoryConfig
from polykit.workflows.laboratory.setup import resolve

ROOT = Path(__file__).parents[1]


class Clock:
    """Takes down when each kind of cell was done."""

    def __init__(self) -> None:
        self.started = self.before = time.perf_counter()
        self.kinds: dict[str, float] = {}
        self.last: dict[str, object] = {}

    @hookimpl
    def polykit_measured(self, stage: str) -> None:
        now = time.perf_counter()
        self.kinds[stage] = self.kinds.get(stage, 0.0) + now - self.before
        self.before = now


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def search(data: Data) -> None:
    """Find one sample's seed vector: 1,000 steps of Adam by autograd."""
    q = data.features.n_features if data.features else 0
    model = nn.Linear(q, q).requires_grad_(False)
    target, seed = torch.rand(q), torch.randn(q, requires_grad=True)
    adam = torch.optim.Adam([seed], lr=0.01)
    for _ in range(1000):
        adam.zero_grad()
        nn.functional.mse_loss(model(seed), target).backward()
        adam.step()


def epoch(model: nn.Module, data: Data) -> None:
    """Train one network for one epoch as one writes it by hand."""
    optimizer = torch.optim.Adam(model.parameters())
    for x, y in data.train.batches(64, order=torch.randperm(len(data.train))):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def attribute(model: nn.Sequential, data: Data, pairs: int) -> float:
    """Seconds to attribute every unit to every feature by Captum, from a few of them."""
    space = data.features
    assert space is not None
    layers = [m for m in model if isinstance(m, nn.Linear)][:-1]
    units = [(layer, unit) for layer in layers for unit in range(layer.out_features)]
    chosen = torch.randperm(len(units))[:pairs].tolist()

    def one(layer: nn.Linear, unit: int) -> None:
        end = list(model).index(layer) + 1

        def forward(features: torch.Tensor) -> torch.Tensor:
            return model[:end](space.encode(features))

        captum = IntegratedGradients(forward)
        feature = torch.eye(space.n_features)[:1]
        captum.attribute(feature, 0.0, target=unit, n_steps=50, method="riemann_right")

    one(*units[0])  # warm
    mean = sum(seconds(lambda place=place: one(*units[place])) for place in chosen) / pairs
    return mean * len(units) * space.n_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "examples" / "thesis" / "n2.toml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--controls", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    changes = [f"seeds={list(range(options.seeds))}"]
    changes += [] if options.controls else ['arms=["pruned"]']
    config = read_recipe(options.recipe, changes)
    assert isinstance(config, LaboratoryConfig)
    registry, clock = Registry.discover(), Clock()
    registry.register(clock, "clock")
    with tempfile.TemporaryDirectory() as folder:
        run = session.run(config, registry, out=Path(folder) / "run")
        whole, processor = time.perf_counter() - clock.started, time.process_time()
        history = run.saved.tables["history"]
        networks = run.saved.tables["networks"].drop_duplicates(
            ["scenario", "dropout", "seed", "arm", "ratio"]
        )
    print(f"{options.recipe.stem}: {options.seeds} seeds, {len(networks)} networks,")
    print(f"{len(history):,} epochs, {config.threads} thread(s), torch {torch.__version__};")
    print(f"{whole:.0f} s, {processor:.0f} s of CPU time with starting up and the report")
    for kind, spent in clock.kinds.items():
        print(f"  {kind:<10} {spent:7.1f} s")
    name = config.scenarios[0].name
    laboratory = resolve(config, registry)
    data = laboratory.make(name, 0)
    model = laboratory.build(name, 0.0, 0, data)
    assert isinstance(model, nn.Sequential)
    samples = len(data.train) + len(data.validation) + len(data.test)
    epoch(model, data)
    by_hand = {
        "seed search": sum(seconds(lambda: search(data)) for _ in range(5))
        / 5
        * samples
        * options.seeds,
        "training": sum(seconds(lambda: epoch(model, data)) for _ in range(3)) / 3 * len(history),
        "measuring": attribute(model, data, 64) * (len(history) + len(networks)),
    }
    total = sum(by_hand.values())
    print("\n| way | hours | times faster |\n|---|---:|---:|")
    print(f"| as published (scaled up) | {total / 3600:.1f} | 1 |")
    print(f"| polykit | {whole / 3600:.4f} ({whole:.0f} s) | {total / whole:,.0f} |")
    print("\nas published: " + ", ".join(f"{k} {v / 3600:.1f} h" for k, v in by_hand.items()))


if __name__ == "__main__":
    main()
