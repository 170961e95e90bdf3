"""Compare unit activations and SNIP kernel scores of AlexNet with the published code's.

The reference directory holds `inputs.npz` (32 pictures; the activations of unit features.10:9 and
the centre activations of its layer, which are read from the full map and through the cone) and
`snip_b32_image.npz` (kernel scores, and the mask of the 18,477 best by a rule that keeps one less).
The network has the random weights of seed 0. Prints each largest error, relative to the largest
value, and leaves with 1 if one is out of tolerance.

    python benchmarks/check_circuits_reference.py --reference DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from polykit.runtime.objectives import parse_objective
from polykit.runtime.passes.capture import capture, unit_values
from polykit.runtime.passes.reading import make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.pruning.masking import candidates
from polykit.types import Scores, Site, Trace
from polykit_builtins.pruners.snip import Snip

UNIT, KEPT = "features.10:9", 18_477
LAYERS = ("features.0", "features.3", "features.6", "features.8", "features.10")


def pictures(images: Any) -> Tensor:
    """Normalise `[n, h, w, 3]` bytes as ImageNet models expect them: `[n, 3, h, w]`."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (x - mean) / std


def alexnet() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.alexnet(weights=None).eval()
    return model


def largest_gap(model: nn.Module, x: Tensor, path: Trace) -> float:
    """Return by how much cone and full map differ at most at the centre of the five layers."""
    with torch.no_grad():
        maps = capture(model, x, [Site(layer) for layer in LAYERS], path).values
        gaps = []
        for layer in LAYERS:
            read = make_reader(model, path, layer, way="cone")(model, x)
            gaps.append(float((read - unit_values(maps[Site(layer)], "center")).abs().max()))
    return max(gaps)


def errors(inputs: Any, published: Any, batch: int) -> list[tuple[str, float, float]]:
    """Return what was compared, the largest error (or how many differ), and what is allowed."""

    def compare(name: str, ours: Tensor, key: Any, allowed: float) -> tuple[str, float, float]:
        gap = np.abs(ours.detach().numpy().astype(np.float64) - key)
        return name, float(gap.max() / np.abs(key).max()), allowed

    model, x = alexnet(), pictures(inputs["images_u8"])
    path = trace(model, x)
    maps = capture(model, x, [Site("features.10")], path).values[Site("features.10")]
    cone = make_reader(model, path, "features.10", way="cone")
    objective = parse_objective(UNIT, "classification", path)
    cut = candidates(model, path, "kernel", target=objective.target)
    chunks = [(part, part) for part in x.split(batch)]
    scores = Snip().scores(
        model,
        objective,
        chunks,
        candidates=cut,
        mask=cut.full(),
        generator=torch.Generator(),
    )
    found = [
        compare("centre activations", unit_values(maps, "center"), inputs["act_center_all"], 1e-4),
        compare("centre activations, cone", cone(model, x), inputs["act_center_all"], 1e-4),
        ("cone − full map, five layers", largest_gap(model, x, path), 0),
        compare("unit, mean", objective.values(model, x, x), inputs["act_target_mean"], 1e-4),
        compare(
            "unit, centre",
            parse_objective(f"{UNIT}@center", "classification", path).values(model, x, x),
            inputs["act_target_center"],
            1e-4,
        ),
    ]
    for layer in LAYERS:
        key = published[f"score_{layer.replace('.', '_')}"]
        found.append(compare(f"SNIP, {layer}", scores.values[f"{layer}.weight"], key, 1e-4))
    masks = {layer: published[f"mask_keep{KEPT}_{layer.replace('.', '_')}"] for layer in LAYERS}
    for count, allowed in ((KEPT - 1, 0), (KEPT, 1)):
        kept = cut.elements(Scores(scores.values, cut).top(count))
        differ = sum(
            int((kept[f"{layer}.weight"].numpy() != mask)[eligible.numpy()].sum())
            for layer, mask in masks.items()
            for eligible in [cut.eligible_elements(f"{layer}.weight")]
        )
        found.append((f"kernels that differ among the {count:,} best", differ, allowed))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    parser.add_argument("--batch", type=int, default=32, help="pictures in one chunk (default 32)")
    options = parser.parse_args()
    with np.load(options.reference / "inputs.npz") as file:
        inputs = dict(file)
    with np.load(options.reference / "snip_b32_image.npz") as file:
        published = dict(file)
    failed = False
    print("| what | largest error | allowed |\n|---|---:|---:|")
    for name, error, allowed in errors(inputs, published, options.batch):
        failed |= not error <= allowed
        print(f"| {name} | {error:.2g} | {allowed:g} |")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
