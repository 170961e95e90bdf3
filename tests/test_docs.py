"""Every example of the documentation runs, in order, in an empty folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def commands(text):
    """The polykit commands of a console block; `make` sets up what a test has already."""
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        words[0] = words[0].removeprefix(".venv/bin/")
        assert words[0] in ("polykit", "make"), f"neither polykit nor make: {line}"
        if words[0] == "polykit":
            yield [sys.executable, "-m", "polykit", *words[1:]]


def quicker(command):
    """Shorten full-sized examples to one small cell; reports are written by `polykit report`."""
    if "analyze" not in command and "run" not in command:
        return command
    command = [*command, "--no-report"]
    if "analyze" in command and "--seed" not in command and "--config" not in command:
        command = [*command, "--seed", "0", "--density", "0.5", "--epochs", "1"]
        command += ["--retrain-epochs", "0"]
    return command


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(page, tmp_path):
    for kind, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if title:
            (tmp_path / title).write_text(text)
        elif kind == "toml":
            (tmp_path / "sweep.toml").write_text(text)
        elif kind == "python":
            run([sys.executable, "-c", text], tmp_path)
        elif kind == "console":
            for command in commands(text):
                run(quicker(command), tmp_path)
        else:
            assert kind == "text", f"{page.name} has a block of kind {kind!r}, which nobody runs"


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_pages_are_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = [path.relative_to(DOCS).as_posix() for path in PAGES if path.is_relative_to(DOCS)]
    assert sorted(listed) == sorted(pages)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
