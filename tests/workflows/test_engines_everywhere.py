"""Every workflow leaves the same bytes where another process does its cells, from its record."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, ClassVar

import pytest

from polykit import session
from polykit.api import Engine, Entry, hookimpl
from polykit.registry import Registry
from polykit.workflows.configs import CONFIGS
from polykit_builtins.engines.local import Local
from tests.workflows.test_engines import WORLDS
from tests.workflows.test_engines import files as contents

SMALL = {
    "model": "mlp:widths=8",
    "seeds": (0, 1),
    "epochs": 1,
    "retrain_epochs": 1,
    "pruners": ("magnitude",),
    "densities": (0.3,),
    "control": False,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "analyze": {**SMALL, "metrics": ("hoyer",), "keep_weights": True},
    "laboratory": {**WORLDS},
    "density": {
        "model": "mlp:widths=8",
        "scales": (0.5, 1.0),
        "seeds": (0, 1),
        "epochs": 2,
        "step": 0.25,
        "metrics": ("hoyer",),
        "class_pruner": "snip",
        "ticket": "iterative-magnitude:rounds=1",
    },
    "basis": {**SMALL, "seeds": (0,), "samples": 20, "cutoffs": (1e-3,), "resolutions": (1.0,)},
    "clusters": {
        "epochs": 4,
        "top": 160,
        "units": ("0-9",),
        "resamples": 2,
        "nulls": 19,
        "sensitivity": False,
        "montage": 2,
        "shard_size": 400,
    },
    "dissect": {
        "run": "clusters",
        "pruners": ("snip",),
        "others": 1,
        "randoms": 2,
        "neither": 20,
        "enough": 5,
    },
    "visualize": {"run": "clusters", "pictures": 1, "steps": 2, "examples": 2},
    "compare": {"a": "analyze:0", "others": ("analyze:1",), "points": 5, "starts": 2},
    "map": {
        "analysis": {**SMALL, "metrics": ("hoyer",)},
        "vary": {"lr": (0.003, 0.03)},
        "show": ("hoyer.lifetime", "loss.loss"),
    },
}
"""A small run of each workflow; `clusters` and `analyze` stand for the runs of these names."""


class Lent(Engine):
    """Hands cells to one process that outlives the run, so that the tests start one only."""

    shares_objects: ClassVar[bool] = False
    pool: ClassVar[Executor]

    def executor(self, *, threads: int, device: str) -> Executor:
        return Borrowed()


class Borrowed(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Lent.pool.submit(fn, *args, **kwargs)


class Lender:
    @hookimpl
    def polykit_entries(self) -> list[Entry]:
        return [Entry("engine", "lent", f"{__name__}:Lent", "a process that is there")]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    made = Registry.discover()
    made.register(Lender(), "lender")
    with Local(workers=1).executor(threads=1, device="cpu") as Lent.pool:
        yield made


@pytest.fixture(scope="module")
def folder(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that others begin with."""
    place = tmp_path_factory.mktemp("engines")
    for workflow in ("analyze", "clusters"):
        run(workflow, place, place / workflow, registry, "serial")
    return place


def run(workflow: str, folder: Path, out: Path, registry: Registry, engine: str) -> None:
    options = dict(OPTIONS[workflow])
    if workflow in ("dissect", "visualize"):
        options |= {"run": str(folder / options["run"]), "units": (unit_of(folder),)}
    if workflow == "compare":
        options |= {"a": f"{folder}/{options['a']}", "others": (f"{folder}/analyze:1",)}
    done = session.run(CONFIGS[workflow](**options, threads=1, engine=engine), registry, out=out)
    assert (done.status, done.failures) == ("complete", {})


def unit_of(folder: Path) -> str:
    """A unit of two clusters."""
    rows = session.open_run(folder / "clusters").rows
    counts = rows[(rows["statistic"] == "clusters") & (rows["value"] == 2)].iloc[0]
    return f"{counts['layer']}:{counts['unit']}"


@pytest.mark.parametrize("workflow", CONFIGS)
def test_another_process_leaves_the_same_bytes(
    workflow: str, folder: Path, registry: Registry, tmp_path: Path
) -> None:
    here = folder / workflow
    if not here.exists():
        run(workflow, folder, here, registry, "serial")
    run(workflow, folder, tmp_path / "there", registry, "lent")
    assert len(contents(here)) > 3
    assert contents(tmp_path / "there") == contents(here)
