"""`polykit plugins new`: the package it writes passes its own tests, and is easy to extend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from polykit.cli import scaffold
from polykit.cli.scaffold import write_package
from polykit.errors import PolykitError, UsageError

METRIC = '''
from typing import ClassVar

import pandas as pd

from polykit.api import Metric
from polykit.types import Column, Measurement, Subject


class Size(Metric):
    """The number of parameters."""

    columns: ClassVar[dict[str, Column]] = {"size": Column("parameters", "count", 0)}

    def measure(self, subject: Subject) -> Measurement:
        """Count."""
        return Measurement(summary={"size": sum(p.numel() for p in subject.model.parameters())})
'''
LINE = '        Entry("metric", "acme-size", "acme.size:Size", "how large"),\n'


def run(*line: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *line],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_package_passes_its_tests_and_grows_by_a_file_and_a_line(tmp_path, polykit):
    done = polykit("plugins", "new", "acme", "--in", str(tmp_path))
    package, site = tmp_path / "acme", tmp_path / "site"
    assert (done.code, done.out) == (0, f"wrote {package}\n")

    (package / "src/acme/size.py").write_text(METRIC)  # one file
    listing = package / "src/acme/__init__.py"
    listing.write_text(listing.read_text().replace("    ]\n", LINE + "    ]\n"))  # one line

    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    run(*install, "--target", str(site), str(package))
    variables = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = ("-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", str(package))
    report = run(*tests, str(package / "tests"), **variables)
    for name in ("pruner-acme-outliers-density", "metric-acme-firing-chunks", "metric-acme-size-"):
        assert re.search(rf"test_contract\[{name}.*PASSED", report)
    listed = run("-m", "polykit", "plugins", "list", **variables)
    assert re.search(r"metric +acme-size +how large +acme", listed)


def test_readme_says_that_a_metric_takes_a_file_and_a_line(tmp_path):
    text = (write_package("acme", tmp_path) / "README.md").read_text()
    assert "## Add a metric: one file, one line" in text
    assert "src/acme/__init__.py" in text
    assert "$" not in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "no distribution name"),
        ("acme-", "no distribution name"),
        ("ac me", "no distribution name"),
        ("../acme", "no distribution name"),
        ("3d", "Python cannot import"),
        ("class", "Python cannot import"),
        ("json", "is there already"),
        ("polykit", "is there already"),
    ],
)
def test_names_that_cannot_be(tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        write_package(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_nothing_is_overwritten(tmp_path, make):
    make(tmp_path / "acme")
    with pytest.raises(UsageError, match="exists already"):
        write_package("acme", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["acme"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(PolykitError, match=r"cannot write into .*nowhere: No such file"):
        write_package("acme", tmp_path / "nowhere")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def write_text(path, text, encoding):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return len(text)

    monkeypatch.setattr(scaffold.Path, "write_text", write_text)
    with pytest.raises(PolykitError, match="No space left"):
        write_package("acme", tmp_path)
    assert list(tmp_path.iterdir()) == []
