"""How well a world came out: how much of its labels can be known at all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polykit.types import Fact
from polykit_builtins.datasets.ground_truth.seeds import solve_seeds
from polykit_builtins.datasets.ground_truth.world import World

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Card:
    """Gives the facts about a world, computed when it is first called."""

    world: World

    @cached_property
    def _facts(self) -> tuple[Fact, ...]:
        return facts(self.world)

    def __call__(self) -> tuple[Fact, ...]:
        """Return the facts."""
        return self._facts


def facts(world: World) -> tuple[Fact, ...]:
    """Return the facts about a world; the same each time.

    `label_ceiling` and `label_learnable` are held-out R² (see `learnable`). Those on the seed
    search are there for worlds that were made by one.
    """
    features, maps = world.features, world.feature_model
    found = [
        Fact("samples", len(features), "samples in all splits"),
        Fact("features", features.shape[1], "features behind the inputs"),
        Fact(
            "label_ceiling",
            learnable(features, world.labels, world.parts["train"]),
            "share of the labels' variance that the true features explain on held-out samples",
            "R²",
        ),
        Fact(
            "label_learnable",
            learnable(world.inputs, world.labels, world.parts["train"]),
            "the same from the inputs, which is what a network sees",
            "R²",
        ),
        Fact(
            "encoder_r2",
            explained(features, world.decoder(world.inputs)),
            "share of the features' variance that the decoder brings back from the inputs",
            "R²",
        ),
    ]
    if world.seeds is None:
        return tuple(found)
    reached = maps.activations(world.seeds)
    found += [
        Fact(
            "seed_error",
            rms(reached - features),
            "distance (RMS) of the seed vectors' activations from the features drawn",
        ),
        Fact(
            "seed_r2",
            explained(features, reached),
            "share of the features' variance that the seed vectors' activations reach; below 0 if "
            "they are further off than the mean",
            "R²",
        ),
    ]
    if maps.is_affine:
        best = maps.labels(solve_seeds(maps, features))
        found.append(
            Fact(
                "search_gap",
                rms(world.labels - best),
                "distance (RMS) of the labels from those of the least-squares seed vectors",
            )
        )
    return tuple(found)


def learnable(x: Tensor, y: Tensor, train: Tensor) -> float:
    """Return how much of `y [n, outputs]` is predictable from `x [n, k]`: R² in [0, 1].

    The better one of linear least squares and gradient-boosted trees (scikit-learn's), fitted on
    the samples `train` and judged on all others; the mean over the outputs, where one that does
    not vary counts 0.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    fitted = np.zeros(len(x), dtype=bool)
    fitted[train.numpy()] = True
    inputs, targets = x.double().numpy(), y.double().numpy()
    design = np.column_stack([inputs, np.ones(len(inputs))])
    weights = np.linalg.lstsq(design[fitted], targets[fitted], rcond=None)[0]
    trees = [
        HistGradientBoostingRegressor(random_state=0)
        .fit(inputs[fitted], target[fitted])
        .predict(inputs[~fitted])
        for target in targets.T
    ]
    guesses = (design[~fitted] @ weights, np.stack(trees, axis=1))
    return min(1.0, max(0.0, *(_mean_r2(targets[~fitted], guess) for guess in guesses)))


def explained(target: Tensor, guess: Tensor) -> float:
    """Return R² over all columns together: 1 − squared error / squared distance from the means."""
    spread = float((target.double() - target.double().mean(0)).square().sum())
    error = float((target.double() - guess.double()).square().sum())
    return 1 - error / spread if spread else 0.0


def rms(difference: Tensor) -> float:
    """Return the root mean square."""
    return float(torch.sqrt(difference.double().square().mean()))


def _mean_r2(target: Array, guess: Array) -> float:
    spread = ((target - target.mean(0)) ** 2).sum(0)
    error = ((target - guess) ** 2).sum(0)
    return float(np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), 0).mean())
