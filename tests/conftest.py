from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from polykit.registry import Registry


class Site:
    """A folder on the path where tests put plugin distributions, as an installer would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(self, distribution: str, source: str, *, name: str = "plug", **more: str) -> None:
        """Write a distribution whose entry point `name` is a module of `source`.

        `more` are further modules. Each module is called after the distribution, or by its key.
        """
        module = distribution.replace("-", "_")
        for stem, text in {module: source, **more}.items():
            (self.folder / f"{stem}.py").write_text(textwrap.dedent(text))
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[polykit]\n{name} = {module}\n")
        importlib.invalidate_caches()

    def registry(self, *disabled: str) -> Registry:
        """Discover what is installed here and nothing else."""
        points = [
            point
            for distribution in importlib.metadata.distributions(path=[str(self.folder)])
            for point in distribution.entry_points
        ]
        return Registry.discover(disabled=disabled, entry_points=points)

    def modules(self) -> list[str]:
        """The modules of this folder that have been imported."""
        files = {str(path) for path in self.folder.glob("*.py")}
        return [n for n, m in list(sys.modules.items()) if getattr(m, "__file__", "") in files]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which another process sees this folder, too."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    place = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(place.folder))
    yield place
    for name in place.modules():
        del sys.modules[name]
