"""Compare iterative magnitude pruning and edge-popup with reference masks, and try them on digits.

The reference directory holds `pruning.npz`: a small network's weights, its masks after rounds of
20 % by the published rule, and scores with the masks that edge-popup takes from them. Every mask
must be equal. On the digits a ticket of density 0.068 must keep an accuracy of 0.95 where a random
mask of that density stays at or below 0.80, and edge-popup must reach 0.92 at density 0.5 in signed
constant weights. Prints what was compared and leaves with 1 if anything fails. Half a minute.

    python benchmarks/check_pruning_reference.py [--reference DIR]
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from polykit.registry import Registry
from polykit.runtime.objectives import TaskLoss
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates, masked
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import evaluate, train
from polykit.types import Candidates, Mask
from polykit_builtins.pruners.edge_popup import EdgePopup, chosen
from polykit_builtins.pruners.iterative_magnitude import IterativeMagnitude
from polykit_builtins.pruners.random import Random

LAYERS = ("fc1.weight", "fc2.weight", "out.weight")
CPU = torch.device("cpu")


def as_given(model: nn.Module, mask: Mask, *, epochs: int | None = None) -> nn.Module:
    """Train nothing: the reference prunes the same weights in every round."""
    return model


def published_masks(arrays: Any) -> list[tuple[str, bool]]:
    """Return what was compared, and whether it is equal."""
    model = nn.Sequential()
    for layer in LAYERS:
        weight = torch.tensor(arrays[f"W/{layer}"])
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight)
        model.add_module(layer.removesuffix(".weight"), linear)
    cut = Candidates({layer: arrays[f"W/{layer}"].shape for layer in LAYERS})
    found = []
    for rounds in (1, 2, 3):
        expected = Mask({n: torch.tensor(arrays[f"mask{rounds}/{n}"]).bool() for n in LAYERS})
        mask = IterativeMagnitude(rule="published", rewind=None).prune(
            model,
            TaskLoss(),
            [],
            density=expected.density,
            candidates=cut,
            generator=generator(0),
            train=as_given,
        )
        found.append((f"round {rounds}: {mask.kept} of {mask.total} kept", mask == expected))
    scores = {"fc1.weight": torch.tensor(arrays["edgepopup/scores"])}
    one = Candidates({"fc1.weight": tuple(scores["fc1.weight"].shape)})
    for share in (0.5, 0.3):
        keep = chosen(scores, one, one.full(), share)
        right = torch.tensor(arrays[f"edgepopup/mask_k{share}"]).bool()
        found.append((f"edge-popup k = {share}", torch.equal(keep["fc1.weight"], right)))
    return found


def on_digits() -> list[tuple[str, bool]]:
    """Return the accuracies and whether they are what is claimed."""
    registry = Registry.discover()
    data = registry.create("dataset", "digits").instance.load()
    with seeded(0, "init"):
        model = registry.create("model", "mlp:init=he").instance.build(data.input_shape, 10).eval()
    cut = candidates(model, trace(model, next(data.train.batches(1))[0]))
    batches = list(data.train.batches(256))

    def trained(network: nn.Module, mask: Mask, *, epochs: int | None = None) -> nn.Module:
        network, config = copy.deepcopy(network), TrainingConfig(lr=2e-3)
        train(network, data, config, epochs or 30, seed=0, device=CPU, mask=mask)
        return network

    def accuracy(network: nn.Module) -> float:
        return evaluate(network, data.test, data.task, CPU)[1] or 0.0

    ticket = IterativeMagnitude(rewind=2)
    popup = EdgePopup(weights="signed")
    arguments: dict[str, Any] = {"candidates": cut, "generator": generator(0)}
    early = ticket.prepare(model, **arguments, train=trained)
    drawn = popup.prepare(model, **arguments)
    found = {
        "ticket": ticket.prune(
            early, TaskLoss(), batches, density=0.068, **arguments, train=trained
        ),
        "random": Random().prune(early, TaskLoss(), batches, density=0.068, **arguments),
        "edge-popup": popup.prune(drawn, TaskLoss(), batches, density=0.5, **arguments),
    }
    kept = {name: accuracy(trained(early, found[name])) for name in ("ticket", "random")}
    with masked(drawn, found["edge-popup"]):
        kept["edge-popup"] = accuracy(drawn)
    return [
        (f"ticket of density 0.068: accuracy {kept['ticket']:.3f} >= 0.95", kept["ticket"] >= 0.95),
        (f"random of density 0.068: accuracy {kept['random']:.3f} <= 0.80", kept["random"] <= 0.8),
        (
            f"edge-popup at density 0.5: accuracy {kept['edge-popup']:.3f} >= 0.92",
            kept["edge-popup"] >= 0.92,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, help="folder that holds pruning.npz")
    folder = parser.parse_args().reference
    results = [] if folder is None else published_masks(np.load(folder / "pruning.npz"))
    results += on_digits()
    for text, right in results:
        print(f"{'ok ' if right else 'NOT'}  {text}")
    return 0 if all(right for _, right in results) else 1


if __name__ == "__main__":
    sys.exit(main())
