"""A sweep of small cells on every engine: seconds a cell, and whether all leave the same bytes.

    python benchmarks/bench_engines.py [--cells 200] [--samples 2000] [--epochs 3 30]

Each cell trains one small network on its own, with one thread, so few epochs that the engine shows,
then as many as a real cell may take. Workers start before the clock does: it runs from the end of
the first cell of each worker to the end of the last cell. What an engine costs is its time with one
worker less that of `serial`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from polykit import session
from polykit.api import hookimpl
from polykit.registry import Registry
from polykit.workflows.analyze.config import AnalyzeConfig

ENGINES = {
    "serial": 1,
    "local:workers=1": 1,
    "local:workers=2": 2,
    "dask:workers=1": 1,
    "dask:workers=2": 2,
}


class Clock:
    """Notes when cells end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @hookimpl
    def polykit_cell_finished(self) -> None:
        self.ends.append(time.perf_counter())

    def per_cell(self, workers: int) -> float:
        """Seconds from the end of each worker's first cell to the last, per cell in between."""
        return (self.ends[-1] - self.ends[workers - 1]) / (len(self.ends) - workers)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a run but its record, with its bytes."""
    found = (p for p in path.rglob("*") if p.is_file() and p.name != "run.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def sweep(cells: int, samples: int, epochs: int) -> AnalyzeConfig:
    """A sweep of cells that train one network each."""
    return AnalyzeConfig(
        model="mlp:widths=64",
        dataset=f"toy:samples={samples}",
        pruners=("magnitude",),
        densities=(0.1,),
        metrics=("hoyer",),
        control=False,
        seeds=tuple(range(cells // 2)),
        epochs=epochs,
        retrain_epochs=epochs,
        ensemble=1,
        threads=1,
    )


def compare(config: AnalyzeConfig) -> None:
    """Run a sweep on every engine, and print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        first, alone = {}, 0.0
        for number, (engine, workers) in enumerate(ENGINES.items()):
            clock, registry = Clock(), Registry.discover()
            registry.register(clock, "clock")
            run = session.run(
                config.model_copy(update={"engine": engine}),
                registry,
                out=Path(folder) / str(number),
            )
            found, seconds = contents(run.path), clock.per_cell(workers)
            first, alone = first or found, alone or seconds
            more = f"{seconds - alone:20.4f}" if workers == 1 else " " * 20
            same = "same" if found == first else "DIFFERENT"
            print(
                f"{config.epochs:6} {engine:<16} {seconds:9.4f} {more} {alone / seconds:13.2f}   "
                f"{same}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 30])
    given = parser.parse_args()
    print("epochs engine            s a cell   s more than serial   serial / it   bytes")
    for epochs in given.epochs:
        compare(sweep(given.cells, given.samples, epochs))


if __name__ == "__main__":
    main()
