"""Writes requirements/ci.txt: exactly what CI installs, each file by its hash.

    python requirements/lock.py            # resolve anew and write
    python requirements/lock.py --here     # the first line of a lock that would fit here

Run it in the Python that CI runs, since wheels differ between versions and platforms; the first
line of the lock says for which it is. pip resolves anew, from pyproject.toml's bounds.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCK = HERE / "ci.txt"
TOOLS = ("editables", "hatchling", "pip")
"""What installs polykit itself, without a build environment of its own."""


def here() -> str:
    """Name this interpreter and platform as the lock's first line does."""
    python = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    return f"# {python} {sys.platform} {platform.machine()}"


def line(item: dict[str, Any]) -> str:
    """Return the lock's line for one file that pip would install.

    >>> found = {"metadata": {"name": "Some_Package", "version": "1.0"}}
    >>> print(line(found | {"download_info": {"archive_info": {"hashes": {"sha256": "ab"}}}}))
    some-package==1.0 --hash=sha256:ab
    """
    metadata = item["metadata"]
    name = metadata["name"].lower().replace("_", "-").replace(".", "-")
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={metadata['version']} --hash=sha256:{digest}"


def main() -> None:
    """Ask pip what it would install into an empty environment, and write that down."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    wanted = [f"{HERE.parent}[dev]", *TOOLS]
    done = subprocess.run([*command, "--report", "-", *wanted], check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)["install"]
    lines = sorted(line(item) for item in found if item["metadata"]["name"] != "polykit")
    LOCK.write_text("\n".join([here(), "# Written by requirements/lock.py.", *lines, ""]))
    print(f"{LOCK.name}: {len(lines)} packages")


if __name__ == "__main__":
    if sys.argv[1:] == ["--here"]:
        print(here())
    else:
        main()
