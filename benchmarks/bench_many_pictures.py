"""`polykit clusters` over very many pictures: is memory flat, and does the pass keep its pace?

    python benchmarks/bench_many_pictures.py [--pictures 100000] [--engine serial]

Draws JPEGs of 64×64 pixels into tar shards of 1,000, then runs the command as a user would: a small
convnet, all units of its last convolution, one cell per shard, one thread. The memory (resident
pages of the driver and its workers, what they share counted twice) and the CPU time of all its
processes are sampled over the whole run; the cells' own files tell when a shard was done. Prints a
table by tenth of the pictures, what comes after the pass, and what 1,281,167 pictures would cost.
Leaves with 1 if, behind the first tenth of the pictures, the highest memory of a tenth or its
pictures per second of CPU time are more than 10 % off their mean.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PER_SHARD = 1000
SIDE = 64
CLASSES = 10
IMAGENET = 1_281_167
ALLOWED = 0.1


@dataclass(frozen=True)
class Sample:
    """The processes of a run at one time: seconds, bytes in memory, CPU seconds so far."""

    time: float
    memory: int
    cpu: float


def draw_shards(folder: Path, pictures: int) -> None:
    """Write smooth random JPEGs of ten classes, each class with a colour of its own."""
    draw = np.random.default_rng(0)
    tints = draw.integers(0, 128, (CLASSES, 3))
    for part, count in (("train", pictures), ("val", PER_SHARD), ("test", PER_SHARD)):
        for first in range(0, count, PER_SHARD):
            with tarfile.open(folder / f"{part}-{first // PER_SHARD:05d}.tar", "w") as archive:
                for number in range(first, min(first + PER_SHARD, count)):
                    label = number % CLASSES
                    coarse = draw.integers(0, 128, (5, 5, 3)) + tints[label]
                    smooth = Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE))
                    content = io.BytesIO()
                    smooth.save(content, "JPEG")
                    _add(archive, f"{number:07d}.jpg", content.getvalue())
                    _add(archive, f"{number:07d}.cls", str(label).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def watch(command: Sequence[str]) -> list[Sample]:
    """Run a command to its end and sample it and all processes below it, ten times a second."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    root, samples = psutil.Process(process.pid), []
    cpu: dict[int, float] = {}  # of those that have ended, too
    while process.poll() is None:
        memory = 0
        for each in [root, *root.children(recursive=True)]:
            try:
                memory += each.memory_info().rss
                times = each.cpu_times()
            except psutil.Error:  # it has ended by now
                continue
            cpu[each.pid] = times.user + times.system
        samples.append(Sample(time.time(), memory, sum(cpu.values())))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}")
    return samples


@dataclass(frozen=True)
class Stretch:
    """What a stretch of the run took: pictures, seconds, CPU seconds, the most bytes in memory."""

    pictures: int
    seconds: float
    cpu: float
    memory: int

    def row(self, name: str) -> str:
        """A row of the table."""
        pace = f"{self.pictures / self.seconds:,.0f} | {self.pictures / self.cpu:,.0f}"
        speed = pace if self.pictures else " | "
        return (
            f"| {name} | {self.seconds:.1f} | {self.cpu:.1f} | {speed} | {self.memory / 1e6:.0f} |"
        )


def between(samples: Sequence[Sample], start: float, end: float, pictures: int) -> Stretch:
    """Sum up the samples from one time to another."""
    inside = [sample for sample in samples if start <= sample.time <= end]
    times, used = [s.time for s in samples], [s.cpu for s in samples]
    cpu = float(np.interp(end, times, used) - np.interp(start, times, used))
    return Stretch(pictures, end - start, cpu, max(sample.memory for sample in inside))


def tenths(run: Path, samples: Sequence[Sample], pictures: int) -> tuple[list[Stretch], float]:
    """Cut the pass into tenths of its shards; the time of its end. The first one has the start."""
    ends = sorted(cell.stat().st_mtime for cell in run.glob("cells/activations-*"))
    cuts = [round(share * len(ends) / 10) for share in range(11)]
    found = [
        between(
            samples,
            ends[first - 1] if first else (run / "cells" / "model").stat().st_mtime,
            ends[last - 1],
            pictures * (last - first) // len(ends),
        )
        for first, last in pairwise(cuts)
    ]
    return found, ends[-1]


def spread(values: Sequence[float]) -> float:
    """How far the values are off their mean at most, as a share of it."""
    return float(max(abs(np.array(values) / np.mean(values) - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000, help="a multiple of 10,000")
    parser.add_argument("--engine", default="serial")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data, run = Path(place) / "data", Path(place) / "run"
        data.mkdir()
        draw_shards(data, given.pictures)
        command = [sys.executable, "-m", "polykit", "clusters", "--model", "convnet"]
        command += ["--data", f"webdataset:{data},size={SIDE},crop={SIDE}", "--epochs", "0"]
        command += ["--threads", "1", "--engine", given.engine, "--out", str(run)]
        samples = watch(command)
        found, end = tenths(run, samples, given.pictures)
        last = samples[-1].time
        before = between(samples, samples[0].time, (run / "cells" / "model").stat().st_mtime, 0)
        after = between(samples, end, last, 0)
    print("| part | seconds | CPU seconds | pictures/s | pictures/CPU s | most memory (MB) |")
    print("|---|---:|---:|---:|---:|---:|")
    print(before.row("start, index of the shards, network"))
    for number, stretch in enumerate(found):
        print(stretch.row(f"pictures {10 * number}–{10 * number + 10} %"))
    print(after.row("clusters, thumbnails, report"))
    steady = found[1:]
    memory = spread([stretch.memory for stretch in steady])
    pace = spread([stretch.pictures / stretch.cpu for stretch in steady])
    wall = spread([stretch.pictures / stretch.seconds for stretch in steady])
    print(
        f"\nbehind the first tenth: memory within {memory:.1%} of its mean, pictures per CPU "
        f"second within {pace:.1%}, per second within {wall:.1%}"
    )
    times = IMAGENET / given.pictures
    passed = sum(stretch.cpu for stretch in found) + before.cpu
    print(
        f"{IMAGENET:,} pictures of this size: {passed * times / 60:.0f} min of CPU time for the "
        f"index and the pass, and {after.cpu / 60:.1f} min behind it, as here"
    )
    raise SystemExit(memory > ALLOWED or pace > ALLOWED)


if __name__ == "__main__":
    main()
