"""`polykit clusters` from end to end: AlexNet, all 256 units of features.10, on the CPU.

Pictures come from `--pictures DIR` (one folder per class) or are drawn here: 1,000 JPEGs of 256×340
pixels. The network has random weights. Each stage is timed: decoding and activations (with two
processes that read ahead), clusters of all units with all tests and settings, thumbnails. Then the
largest memory that the pass takes with N and with 4 N pictures, each in a process of its own, and
the time of one HDBSCAN by several ways. Prints markdown tables.

    python benchmarks/bench_clusters.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
from PIL import Image

from polykit import session
from polykit.api import hookimpl
from polykit.registry import Registry
from polykit.runtime.clusters.clustering import Recipe, distances, partition
from polykit.workflows.clusters.config import ClustersConfig


def draw_pictures(folder: Path, count: int) -> None:
    """Write smooth random JPEGs, half of them in each of two class folders."""
    draw = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        coarse.resize((340, 256), Image.Resampling.BICUBIC).save(place / f"{number}.jpg")


def as_parts(pictures: Path, folder: Path, copies: int = 1) -> Path:
    """Make a folder whose train part holds all pictures, `copies` times; links, no copies."""
    for part in ("train", "val", "test"):
        for place in sorted(p for p in pictures.iterdir() if p.is_dir()):
            own = folder / part / place.name
            own.mkdir(parents=True)
            for number in range(copies if part == "train" else 1):
                for file in place.iterdir():
                    (own / f"{number}-{file.name}").symlink_to(file.resolve())
    return folder


class Stages:
    """Hears when each stage ends: its name, the time, and the CPU time with that of workers."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, float, float]] = []

    @hookimpl
    def polykit_measured(self, cell: str, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.ends.append((stage, time.perf_counter(), cpu_seconds()))


def cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run(data: Path, out: Path, threads: int, workers: int) -> dict[str, tuple[float, float]]:
    """Run clusters and return seconds and CPU seconds of each stage, and of the whole."""
    registry, stages = Registry.discover(), Stages()
    registry.register(stages, "stages")
    config = ClustersConfig(
        model="alexnet",
        dataset=f"imagefolder:{data},workers={workers}",
        layers=("features.10",),
        epochs=0,
        threads=threads,
    )
    start = last = (time.perf_counter(), cpu_seconds())
    found = session.run(config, registry, out=out)
    if found.status != "complete":
        sys.exit(f"the run failed: {found.failures}")
    seconds: dict[str, tuple[float, float]] = {}
    for stage, *end in stages.ends:
        wall, cpu = seconds.get(stage, (0.0, 0.0))
        seconds[stage] = wall + end[0] - last[0], cpu + end[1] - last[1]
        last = end[0], end[1]
    return {**seconds, "in all": (time.perf_counter() - start[0], cpu_seconds() - start[1])}


def peak_megabytes(data: Path, out: Path, threads: int) -> float:
    """Run in a process of its own; return the most memory it held."""
    command = [sys.executable, __file__, "--once", str(data), str(out), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def ways(n: int, d: int) -> dict[str, float]:
    """Milliseconds of one HDBSCAN by several ways, the best of five."""
    x = np.random.default_rng(0).normal(size=(n, d))
    apart, recipe = distances(x), Recipe(min_cluster_size=max(5, n // 20))
    options = {"min_cluster_size": recipe.min_cluster_size, "min_samples": 5}
    calls: dict[str, Callable[[], object]] = {
        "polykit, from distances at hand": lambda: partition(apart, recipe),
        "polykit, with the distances": lambda: partition(distances(x), recipe),
        "hdbscan, generic": lambda: hdbscan.HDBSCAN(algorithm="generic", **options).fit(x),
        "hdbscan, its own choice": lambda: hdbscan.HDBSCAN(**options).fit(x),
    }
    return {name: 1e3 * min(_seconds(call) for _ in range(5)) for name, call in calls.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder with one folder per class")
    parser.add_argument("--count", type=int, default=1000, help="pictures to draw")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--once", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        run(*options.once, options.threads, 0)
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pictures = options.pictures
        if pictures is None:
            pictures = folder / "pictures"
            draw_pictures(pictures, options.count)
        data = as_parts(pictures, folder / "one")
        found = run(data, folder / "run", options.threads, options.workers)
        count = sum(len(files) for _, _, files in os.walk(data / "train"))
        print(f"\n{count} pictures, 256 units, {options.threads} threads\n")
        print("| stage | seconds | CPU seconds |\n|---|---:|---:|")
        for stage, (wall, cpu) in found.items():
            print(f"| {stage} | {wall:.1f} | {cpu:.1f} |", flush=True)
        print("\n| pictures | most memory (MB) |\n|---:|---:|")
        print(f"| {count} | {peak_megabytes(data, folder / 'a', options.threads):.0f} |")
        four = as_parts(pictures, folder / "four", 4)
        print(f"| {4 * count} | {peak_megabytes(four, folder / 'b', options.threads):.0f} |")
    sizes = [(100, 256), (600, 256), (600, 10), (2000, 256)]
    table = [ways(n, d) for n, d in sizes]
    print(f"\n| milliseconds | {' | '.join(f'{n} × {d}' for n, d in sizes)} |")
    print("|---|" + "---:|" * len(sizes))
    for way in table[0]:
        print(f"| {way} | {' | '.join(f'{column[way]:.1f}' for column in table)} |")


if __name__ == "__main__":
    main()
