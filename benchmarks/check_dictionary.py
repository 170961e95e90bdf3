"""Do learned dictionaries find the true features, and tell the same units polysemantic?

Where the truth is known it can be told. For worlds of the dataset `feature-model` (as published,
and with rarer features), a network is trained and dictionaries are learned from its input or from
its first hidden layer. Printed over the seeds, mean ± standard deviation:

- MMCS: mean over the true features of the largest cosine between a feature's direction at that
  place, act(encode(e_j)) − act(encode(0)), and one of the dictionary's;
- ρ: Spearman's rank correlation over units between the polysemanticity (ratio) measured with true
  and with learned features, of all units behind that place, and within layers (mean).

Controls: as many random directions, and principal components with both signs. Seeds count from 1:
seed 0 served to choose the dictionary's defaults.

    python benchmarks/check_dictionary.py --seeds 3
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import evaluating, trace
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import train
from polykit.types import Data, FeatureSpace, Site, Subject
from polykit_builtins.datasets.feature_model import FeatureModel
from polykit_builtins.features.affine import Affine
from polykit_builtins.features.dictionary import Dictionary
from polykit_builtins.features.sparse_autoencoder import mean_max_cosine
from polykit_builtins.metrics.attribution import attribution_matrix
from polykit_builtins.metrics.ig import polysemanticity
from polykit_builtins.models.mlp import Mlp

CPU = torch.device("cpu")
WIDTHS = {"N1": (64, 16, 16), "N2": (128, 32), "L1": (128, 32)}
WORLDS = {
    "N2, as published": {"scenario": "N2"},
    "N2, rare features": {"scenario": "N2", "sparsity_low": 0.95, "sparsity_high": 0.97},
    "L1, rare features": {"scenario": "L1", "sparsity_low": 0.95, "sparsity_high": 0.97},
}
PLACES = ("input", "hidden1")


def look_at(world: dict[str, object], seed: int, epochs: int) -> Subject:
    """Make a world and train a network on it."""
    made = FeatureModel(**world, seed=seed)
    data = made.load()
    activation = "identity" if str(world["scenario"]).startswith("L") else "relu"
    with seeded(seed, "init"):
        plugin = Mlp(widths=WIDTHS[str(world["scenario"])], activation=activation)
        model = plugin.build(data.input_shape, data.outputs)
    train(model, data, TrainingConfig(), epochs, seed=seed, device=CPU)
    found = trace(model, torch.zeros(1, *data.input_shape))
    layers = select_layers(found)
    return Subject(model, found, layers, data, CPU, 512, lambda *_: truth(data))


def truth(data: Data) -> FeatureSpace:
    assert data.features is not None
    return data.features


def true_directions(subject: Subject, place: str) -> Tensor:
    """Return act(encode(e_j)) − act(encode(0)) `[q, dimension]`."""
    space = truth(subject.data)
    features = torch.cat([torch.zeros(1, space.n_features), torch.eye(space.n_features)])
    values = space.encode(features)
    if place != "input":
        site = Site(place, "post")
        with evaluating(subject.model), torch.no_grad():
            values = capture(subject.model, values, [site], subject.trace).values[site]
    return (values[1:] - values[0]).flatten(1)


def ratios(subject: Subject, space: FeatureSpace, place: str) -> dict[str, np.ndarray]:
    """Return the polysemanticity of every unit behind `place`, by layer."""
    layers = [layer for layer in subject.layers if layer != place]
    found = {}
    for layer in layers:
        M = attribution_matrix(
            subject.model,
            space.encode,
            space.n_features,
            layers=[layer],
            layer=space.layer,
            inputs=torch.zeros(1, *subject.data.input_shape),
        )
        found[layer] = polysemanticity(M)["ratio"].to_numpy()
    return found


def agreement(true: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return Spearman's ρ over all units, and its mean within layers; silent units left out."""
    pairs = []
    for layer, ours in true.items():
        both = (ours > 0) & (other[layer] > 0)
        pairs.append((ours[both], other[layer][both]))
    pooled = [np.concatenate(parts) for parts in zip(*pairs, strict=True)]
    within = [spearmanr(*pair).statistic for pair in pairs if len(pair[0]) > 2]
    return float(spearmanr(*pooled).statistic), float(np.mean(within))


def candidates(
    subject: Subject, place: str, seed: int, options: dict[str, object]
) -> dict[str, Callable[[], FeatureSpace]]:
    """Return the learned dictionaries and their controls, to be built."""

    @cache
    def learned(sparsity: str) -> FeatureSpace:
        return Dictionary(layer=place, sparsity=sparsity, seed=seed, **options).build(subject)

    def directed(directions: Tensor) -> FeatureSpace:
        """As strong as what was learned, but in other directions."""
        like = learned("l1")
        assert isinstance(like.encode, Affine)
        strength = like.encode.offsets.norm(dim=1).mean()
        offsets = strength * nn.functional.normalize(directions)
        return replace(
            like, n_features=len(offsets), names=(), encode=Affine(like.encode.origin, offsets)
        )

    def random() -> FeatureSpace:
        like = learned("l1")
        assert isinstance(like.encode, Affine)
        return directed(torch.randn(like.encode.offsets.shape, generator=generator(seed, "random")))

    def components() -> FeatureSpace:
        vectors, _ = Dictionary(layer=place).activations(subject, "" if place == "input" else place)
        _, _, axes = torch.linalg.svd(vectors - vectors.mean(dim=0), full_matrices=False)
        return directed(torch.cat([axes, -axes]))

    return {
        "l1": lambda: learned("l1"),
        "topk": lambda: learned("topk"),
        "random": random,
        "PCA ±": components,
    }


def show(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="worlds and networks (default 3)")
    parser.add_argument("--epochs", type=int, default=50, help="training epochs of the networks")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument(
        "-o", action="append", default=[], metavar="NAME=VALUE", help="of dictionary"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    own = dict(option.split("=") for option in options.o)
    print("| world | at | directions | number | MMCS | ρ, all units | ρ, within layers |")
    print("|---|---|---|---:|---:|---:|---:|")
    start = time.perf_counter()
    for name, world in WORLDS.items():
        results = defaultdict(list)
        for seed in range(1, options.seeds + 1):
            subject = look_at(world, seed, options.epochs)
            for place in PLACES:
                directions = true_directions(subject, place)
                true = ratios(subject, truth(subject.data), place)
                for method, build in candidates(subject, place, seed, own).items():
                    space = build()
                    assert isinstance(space.encode, Affine)
                    mmcs = mean_max_cosine(directions, space.encode.offsets.flatten(1))
                    rho = agreement(true, ratios(subject, space, place))
                    results[place, method].append((space.n_features, mmcs, *rho))
        for (place, method), rows in results.items():
            count, *others = zip(*rows, strict=True)
            cells = " | ".join(show(values) for values in others)
            print(f"| {name} | {place} | {method} | {np.mean(count):.0f} | {cells} |", flush=True)
    print(f"\n{options.seeds} seeds, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
