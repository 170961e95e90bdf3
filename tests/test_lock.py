"""The lock holds what pyproject asks for, each file by its hash."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "requirements" / "ci.txt").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = dict(line.split(" ")[0].split("==") for line in LINES if not line.startswith("#"))


def test_the_lock_says_what_it_is_for():
    assert re.fullmatch(r"# cpython 3\.\d+ linux \w+", LINES[0])


def test_each_file_comes_with_its_hash():
    for line in LINES:
        assert line.startswith("#") or re.fullmatch(r"[\w-]+==\S+ --hash=sha256:[0-9a-f]{64}", line)


def test_the_lock_meets_every_bound():
    """`make lock` writes it anew."""
    extras = PROJECT["optional-dependencies"].values()
    for text in (*PROJECT["dependencies"], *(text for asked in extras for text in asked)):
        asked = Requirement(text)
        if asked.name != PROJECT["name"]:
            name = canonicalize_name(asked.name)
            assert name in LOCKED, f"{name} is not in the lock; make lock"
            assert asked.specifier.contains(LOCKED[name], prereleases=True), f"{text}; make lock"
