"""The centre of a unit's map through its cone, against the full map, on one thread.

AlexNet with random weights, random pictures of 224×224 pixels, seconds of CPU time. The full map by
hand is the forward pass up to the layer, `model.features[:11](x)`. All run in turn, so that
whatever else the machine does meets all of them. With --pictures, the pictures of an image folder
are decoded, resized and read with 0, 1 and 2 processes that read ahead, in seconds of wall-clock
time. Prints markdown tables.

    python benchmarks/bench_cone.py
    python benchmarks/bench_cone.py --pictures DIR --repeats 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polykit.runtime.passes.reading import Reader, make_reader
from polykit.runtime.passes.trace import trace
from polykit.runtime.samples.splits import indexed
from polykit_builtins.datasets.imagefolder import ImageFolder

LAYERS = {"features.0": 1, "features.3": 4, "features.6": 7, "features.8": 9, "features.10": 11}


def alexnet() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.alexnet(weights=None).eval()
    return model


def readers(model: nn.Module, layer: str) -> tuple[Reader, Reader]:
    """Return the readers of a layer's centre through the cone and from the full map."""
    path = trace(model, torch.zeros(1, 3, 224, 224))
    return make_reader(model, path, layer, way="cone"), make_reader(model, path, layer, way="full")


def multiply_adds(call: Callable[[], object]) -> float:
    """Return millions of multiply-adds."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2 / 1e6


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # warm
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(cpu_seconds(call))
    return {name: statistics.median(times) for name, times in taken.items()}


def forward(model: nn.Module, images: int, repeats: int) -> None:
    x = torch.randn(images, 3, 224, 224)
    print("| layer | field (px) | multiply-adds, full → cone (M) | full by hand (ms) |", end="")
    print(" polykit, full | polykit, cone | times faster |\n|---|---:|---:|---:|---:|---:|---:|")
    for layer, stop in LAYERS.items():
        cone, full = readers(model, layer)
        by_hand = model.features[:stop]  # type: ignore[index]
        with torch.no_grad():
            work = [multiply_adds(lambda way=way: way(model, x[:1])) for way in (full, cone)]
            found = medians(
                {
                    "hand": lambda by_hand=by_hand: by_hand(x),
                    "full": lambda full=full: full(model, x),
                    "cone": lambda cone=cone: cone(model, x),
                },
                repeats,
            )
        hand, whole, narrow = (1000 * found[name] / images for name in ("hand", "full", "cone"))
        assert cone.field is not None
        print(
            f"| {layer} | {cone.field.size[0]} | {work[0]:.1f} → {work[1]:.1f} | {hand:.2f} "
            f"| {whole:.2f} | {narrow:.2f} | {hand / narrow:.2f} |"
        )


def gradients(model: nn.Module, images: int, repeats: int) -> None:
    """Time the gradient of one unit by all weights, which SNIP's scores are made of."""
    x = torch.randn(images, 3, 224, 224)
    cone, full = readers(model, "features.10")
    weights = [m.weight for m in model.features if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]

    def gradient(read: Reader) -> tuple[Tensor, ...]:
        return torch.autograd.grad(read(model, x)[:, 9].mean(), weights)

    found = medians({"full": lambda: gradient(full), "cone": lambda: gradient(cone)}, repeats)
    ratio = found["full"] / found["cone"]
    print(
        f"\nforward and backward to features.10:9, {images} pictures: full {found['full']:.2f} s, "
        f"cone {found['cone']:.2f} s, {ratio:.2f} times faster"
    )


def stream(folder: str, workers: int, batch: int) -> Iterator[Tensor]:
    """Read all pictures of a folder, decoded and resized."""
    data = ImageFolder(path=folder, workers=workers).load()
    for split in (data.train, data.validation, data.test):
        for _, x, _ in indexed(split, batch):
            yield x


def all_cpu_seconds() -> float:
    """Return the CPU seconds so far of this process and of those that it has started and ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pictures(model: nn.Module, folder: str, repeats: int, batch: int) -> None:
    cone, _ = readers(model, "features.10")
    print("| | workers | seconds | ms a picture | CPU ms a picture |\n|---|---:|---:|---:|---:|")
    for name, reader in {"decode and resize": None, "… and read, cone": cone}.items():
        for workers in (0, 1, 2):
            taken, used, count = [], [], 0
            for _ in range(repeats):
                start, cpu, count = time.perf_counter(), all_cpu_seconds(), 0
                for x in stream(folder, workers, batch):
                    if reader is not None:
                        with torch.no_grad():
                            reader(model, x)
                    count += len(x)
                taken.append(time.perf_counter() - start)
                used.append(all_cpu_seconds() - cpu)
            each, work = min(taken) / count, min(used) / count
            print(
                f"| {name} | {workers} | {min(taken):.1f} | {1000 * each:.2f} | {1000 * work:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help="pictures in a batch (default 32)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians (default 7)")
    parser.add_argument("--pictures", metavar="DIR", help="an image folder to read instead; minima")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = alexnet()
    if options.pictures:
        pictures(model, options.pictures, options.repeats, options.images)
    else:
        forward(model, options.images, options.repeats)
        gradients(model, options.images, options.repeats)


if __name__ == "__main__":
    main()
