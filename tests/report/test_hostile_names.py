"""Names that want to be code or paths: the pages show them as text, and no file leaves the run."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import polykit
from polykit import session
from polykit.registry import Registry
from polykit.runtime.samples.data import as_data
from polykit.types import Data
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.visualize.config import VisualizeConfig
from polykit_builtins.pruners.magnitude import Magnitude

from .clusters.conftest import dissect

CODE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
BREAKING = (
    "\"'><svg onload=alert(1)> & </title></style> $\\frac{1}$ {{ 7 * 7 }} \u202e \x07\x1b[31m"
)
OUT = "../../../escape"
LONG = "long" * 50
NAMES = (f"{CODE} {OUT}", f"{BREAKING} {LONG}")
REGISTRY = Registry.discover()


class Page(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._in = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " ".join(value or "" for _, value in attrs)
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts.append(data)
        self.text += data


def check(path: Path, *shown: str) -> None:
    """The page has our script only, runs nothing else, loads nothing, and shows the names."""
    page = Page(path)
    ours = (resources.files("polykit.report") / "templates" / "report.js").read_text("utf-8")
    assert [script.strip() for script in page.scripts] == [ours.strip()]
    digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
    policies = [a.get("content") or "" for tag, a in page.elements if tag == "meta"]
    assert any(f"sha256-{digest}" in policy for policy in policies)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "link")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}={value}>"
            if name in ("src", "href", "xlink:href"):
                assert str(value).startswith(
                    (
                        "#",
                        "data:image/",
                        "report-pictures/",
                        "../",
                        "dissections/",
                        "visualisations/",
                    )
                ), value
    assert not [c for c in page.text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert not set("\u202e\u2066\u200f") & set(page.text)
    for drawing in (path.parent / "figures").glob("*.svg"):
        ElementTree.fromstring(drawing.read_text(encoding="utf-8"))
    for text in shown:
        assert text in page.text
    assert "49" not in {line.strip() for line in page.text.splitlines()}  # no template ran


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for runs; nothing may appear beside it, or where the test runs."""
    for name in ("here", "runs", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "here", "runs"]
    assert not list((tmp_path / "here").iterdir())
    assert len(list((tmp_path / "runs").iterdir())) == 1


def own_network() -> nn.Sequential:
    """A network whose layers are called as badly as torch allows: without dots."""
    net = nn.Sequential()
    net.add_module("flat", nn.Flatten())
    net.add_module(CODE, nn.Linear(64, 6))
    net.add_module("relu", nn.ReLU())
    net.add_module("/etc/passwd\" onload='x", nn.Linear(6, 2))
    return net


def own_data() -> Data:
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return as_data((x, torch.arange(60) % 2), name=f"{CODE}{OUT}", classes=NAMES)


def own_pruner() -> Any:
    return type(f"{CODE}{OUT}", (Magnitude,), {"__module__": __name__})()


def test_analyses(outside: Path) -> None:
    run = polykit.analyze(
        own_network(), own_data(), pruners=[own_pruner()], metrics=["hoyer"],
        densities=(0.5,), seeds=(0,), epochs=1, retrain_epochs=1, threads=1,
        out=outside / "runs" / "run",
    )  # fmt: skip
    assert run.status == "complete"
    check(run.report(), CODE)
    run._repr_html_()


def test_comparisons(outside: Path) -> None:
    run = polykit.compare(
        own_network(), own_network(), dataset=own_data(), threads=1, out=outside / "runs" / "run"
    )
    assert run.status == "complete"
    check(run.report())


def test_graphs(outside: Path) -> None:
    net = own_network()
    net.add_module(f"{BREAKING.replace('.', '')}{LONG}", nn.Linear(2, 2))
    run = polykit.basis(
        net, own_data(), bases=("neuron",), origins=("zero",), cutoffs=(1e-9,), samples=20,
        seeds=(0,), threads=1, out=outside / "runs" / "run",
    )  # fmt: skip
    assert run.status == "complete"
    check(run.report(), CODE)
    (graph,) = run.path.glob("cells/*/dense-*.graphml")
    assert CODE in str(networkx.read_graphml(graph).nodes(data="layer"))


def test_clusters_and_what_lies_below(outside: Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(
        (CODE.replace("/", "∕"), "\udcff\"'><svg onload=alert(1)> $x$ \u202e\x07")
    ):
        folder = outside / "data" / "pictures" / name
        folder.mkdir(parents=True)
        for n in range(30):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(
                folder / f"{n} \udcfe\" onerror='alert(1)' <b> {number}.png"
            )
    config = ClustersConfig(
        model="convnet:channels=4x4,pools=,hidden=4",
        dataset=f"imagefolder:{outside / 'data' / 'pictures'},size=12,crop=12",
        epochs=1, layers=("conv2",), units=("0-1",), nulls=19, resamples=2, sensitivity=False,
        montage=4, threads=1, min_cluster_size=2, top=12,
    )  # fmt: skip
    run = session.run(config, REGISTRY, out=outside / "runs" / "run")
    assert run.status == "complete"
    check(run.report(), "\\udcfe\" onerror='alert(1)' <b>", "\\u202e\\u0007")
    parts = dissect(run.saved, "first", "conv2:0", pruners=(CODE,))
    check(session.write_report(parts.path), CODE)
    shown = session.run(
        VisualizeConfig(
            run=str(run.path), units=("conv2:0",), steps=2, pictures=1, examples=2, threads=1
        ),
        REGISTRY,
        runs_dir=run.path / "visualisations",
    )
    check(shown.report())
    check(session.write_report(run.path))


def test_templates_escape_everything() -> None:
    """What is marked as safe is our own: style, script, and drawings whose texts are escaped."""
    folder = Path(str(resources.files("polykit.report")))
    for template in (folder / "templates").glob("*.j2"):
        text = template.read_text(encoding="utf-8")
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text
    marked = [p.name for p in folder.rglob("*.py") if "Markup(" in p.read_text(encoding="utf-8")]
    assert marked == ["page.py"]
