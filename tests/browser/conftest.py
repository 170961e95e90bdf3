"""A headless Chromium, the system's own, and pages for it to open."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from torch import nn

import polykit
from polykit import session
from polykit.registry import Registry
from polykit.report.page import write_report
from polykit.runtime.store import SavedRun
from polykit.workflows.map.config import MapConfig

from ..report import conftest as analyses
from ..report.clusters import conftest as atlases
from ..report.laboratory import conftest as laboratories

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Opener = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"these tests need one of {', '.join(NAMES)}; install one, as .ci/run does"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Opener]:
    """Open a page file; whatever the console says, or the page asks of the network, fails."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: Path, *, width: int = 1200, scheme: str = "light", script: bool = True):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        context.set_default_timeout(120_000)  # busy machines are slow, not wrong
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:"))
                or complaints.append(f"request: {request.url}")
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of clusters, with a dissection and a visualisation below it."""
    return write_report(atlases.make_atlas(tmp_path_factory.mktemp("atlas"), size=(48, 64)))


def comparison(folder: Path) -> SavedRun:
    """Two small networks with a pull between them."""
    networks = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)) for _ in "ab"
    ]
    options = {"points": 5, "starts": 1, "randoms": 2, "pull": (0.1, 1.0), "epochs": 1}
    return polykit.compare(*networks, dataset="digits", out=folder, threads=1, **options).saved


def graphs(folder: Path) -> SavedRun:
    """The graphs of a small network in two bases, before and after training."""
    options = {"bases": ("interaction", "neuron"), "seeds": (0, 1), "epochs": 1, "samples": 40}
    return polykit.basis("mlp:widths=8", "digits", out=folder, threads=1, **options).saved


def toy_map(folder: Path) -> SavedRun:
    """Four points of a small toy model."""
    toy = {"features": 8, "inputs": 4, "samples": 512}
    config = MapConfig(
        analysis={
            "model": "toy-superposition-net:hidden=6",
            "dataset": "toy-superposition",
            "metrics": ("monosemanticity",),
            "pruners": (),
            "control": False,
            "seeds": (0, 1),
            "epochs": 1,
            "options": {"toy-superposition": toy},
        },
        vary={"lr": (0.003, 0.03), "bias_decay": (0.0, 0.9)},
        show=("monosemanticity.monosemantic_per_feature",),
        threads=1,
    )
    return session.run(config, Registry.discover(), out=folder).saved


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, atlas: Path) -> dict[str, Path]:
    """One page of every workflow."""
    below = atlas.parent
    runs = {
        "dissect": atlases.read(below / "dissections" / "first"),
        "visualize": atlases.read(below / "visualizations" / "first"),
        "analyze": analyses.build(
            tmp_path_factory.mktemp("run"), densities=(0.5, 0.1), seeds=(0, 1), width=12
        ),
        "laboratory": laboratories.build(tmp_path_factory.mktemp("run"), N1=laboratories.Truth()),
        "compare": comparison(tmp_path_factory.mktemp("run") / "run"),
        "basis": graphs(tmp_path_factory.mktemp("run") / "run"),
        "map": toy_map(tmp_path_factory.mktemp("run") / "run"),
    }
    return {"clusters": atlas, **{name: write_report(run) for name, run in runs.items()}}
