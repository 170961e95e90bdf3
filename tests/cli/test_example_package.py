"""A third party's package, built, installed in a clean environment and used from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "polykit-example"

Run = Callable[..., str]


def call(*line: str | Path, cwd: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(line, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a program of a new environment that holds wheels of polykit and of the example.

    Heavy dependencies are borrowed from this environment by a .pth file: the .pth files of a
    folder that comes this way are not read, so this environment's own polykit stays out of sight.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment, wheels = folder / "environment", folder / "wheels"
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        build = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
        call(*build, ROOT, EXAMPLE, cwd=folder)
        venv.create(environment, symlinks=True)
        python = environment / "bin" / "python"
        purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
        borrowed = Path(call(python, "-I", "-c", purelib, cwd=folder).strip()) / "borrowed.pth"
        borrowed.write_text(sysconfig.get_path("purelib") + "\n")
        install = (*pip, "--python", python, "install", "--no-deps", "--no-index")
        call(*install, *sorted(wheels.glob("*.whl")), cwd=folder)
        yield lambda program, *rest: call(environment / "bin" / program, *rest, cwd=folder)


def test_what_is_imported_is_the_installed_wheel(run):
    for module in ("polykit", "polykit_builtins", "polykit_example"):
        line = f"import {module}, sys; print({module}.__file__.startswith(sys.prefix))"
        assert run("python", "-I", "-c", line) == "True\n"


def test_plugins_are_listed_beside_the_built_in_ones(run):
    listed = json.loads(run("polykit", "plugins", "list", "--json"))["plugins"]
    names = {(plugin["distribution"], plugin["name"]) for plugin in listed}
    assert {("polykit-example", name) for name in ("wanda", "kurtosis", "wine")} < names
    assert ("polykit", "magnitude") in names
    assert len(names) == len(listed)
    assert "all of them sound" in run("polykit", "plugins", "check")


def test_template_is_part_of_the_wheel(run):
    assert "wrote" in run("polykit", "plugins", "new", "acme")


def test_plugins_run_through_the_command_line(run):
    chosen = ("--pruner", "wanda", "--metric", "kurtosis", "--dataset", "wine")
    short = ("--seed", "0", "--density", "0.5", "--json", "--no-report")
    result = json.loads(run("polykit", "analyze", *chosen, *short))
    rows = result["rows"]
    pruners = {row["pruner"] for row in rows}
    assert pruners == {"dense", "wanda", "random"}
    assert "kurtosis_varying" in {row["statistic"] for row in rows}
    accuracy = {
        (row["pruner"], row["stage"]): row["value"]
        for row in rows
        if row["statistic"] == "accuracy"
    }
    assert accuracy["dense", "dense"] > 0.85
    assert accuracy["wanda", "pruned"] > accuracy["random", "pruned"]
    assert run("polykit", "report", result["run"]).strip().endswith("report.html")


def test_package_passes_its_own_tests(run):
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", EXAMPLE / "pyproject.toml")
    assert " passed" in run("python", "-I", "-B", *tests, EXAMPLE / "tests")
