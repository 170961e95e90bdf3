"""The licences of all that polykit needs to run, read from what is installed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from markdown_tables import table

EXCEPTIONS = {
    "cuda-toolkit": "names no licence; an empty package that only asks for NVIDIA's others",
    "nvidia-": "closed, may be used and passed on under NVIDIA's terms; torch brings them on "
    "Linux, and its builds for the CPU come without",
}
"""Why dependencies are accepted that are not under an open licence: by name, or how it begins."""

_OPEN = re.compile(
    "|".join(
        (
            "(3-Clause )?BSD([ -].*)?",
            "0BSD|BSL-1\\.0|CC0-1\\.0|HPND|Unlicense|Zlib",
            "Apache[ -]2\\.0|Apache-2\\.0 WITH LLVM-exception|Apache Software License",
            "ISC( License.*)?",
            "MIT(-0|-CMU| License)?",
            "MPL-2\\.0|Mozilla Public License 2\\.0 .*",
            "PSF-2\\.0|Python Software Foundation License",
        )
    )
)
"""Licences under which polykit, as a whole, can be used and passed on as it is."""

_CLASSIFIER = "License :: "
_VAGUE = {"OSI Approved", "Other/Proprietary License"}
_PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@dataclass(frozen=True)
class Licence:
    """What a distribution says of its licence; empty if it says nothing."""

    name: str
    version: str
    terms: str


def runtime_requirements() -> list[str]:
    """Return what polykit asks for to run, with all extras but that of its developers."""
    project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = {
        name: asked for name, asked in project["optional-dependencies"].items() if name != "dev"
    }
    return [*project["dependencies"], *(text for asked in extras.values() for text in asked)]


def licences(requirements: Iterable[str]) -> list[Licence]:
    """Return the licences of what is required, and of what that requires, by name.

    What an environment marker leaves out, and what is not installed, is not there to be used.
    """
    found: dict[str, Licence] = {}
    waiting = [Requirement(text) for text in requirements]
    asked = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in asked:
            continue
        asked.add((name, extras))
        try:
            needed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Licence(name, needed.version, terms_of(needed))
        waiting += _requirements(needed, extras)
    return [found[name] for name in sorted(found)]


def licence_table() -> str:
    """Return polykit's dependencies with their licences, and why some are accepted."""
    rows = [
        (one.name, one.version, one.terms or "not said") for one in licences(runtime_requirements())
    ]
    reasons = [(f"{name}*" * name.endswith("-") or name, why) for name, why in EXCEPTIONS.items()]
    lines = [*table(("package", "version", "licence"), rows), "Accepted for a reason:", ""]
    return "\n".join([*lines, *table(("package", "reason"), reasons)])


def is_open(terms: str) -> bool:
    """Whether all of what is joined by AND, or one of what is joined by OR, is an open licence.

    >>> is_open("MIT AND BSD-3-Clause"), is_open("GPL-2.0 OR MIT"), is_open("MIT AND GPL-3.0")
    (True, True, False)
    >>> is_open("")
    False
    """
    choices = [
        choice.split(" AND ")
        for choice in re.split(r" OR ", terms.replace("(", "").replace(")", ""))
    ]
    return any(all(_OPEN.fullmatch(part.strip()) for part in choice) for choice in choices)


def excuse(name: str) -> str:
    """Return why a dependency is accepted whatever its licence; empty if it is not.

    >>> excuse("nvidia-cublas").startswith("closed"), excuse("numpy")
    (True, '')
    """
    reasons = (
        why
        for start, why in EXCEPTIONS.items()
        if name == start or (start[-1] == "-" and name.startswith(start))
    )
    return next(reasons, "")


def terms_of(found: Distribution) -> str:
    """Return a distribution's licence: as an expression, by its classifiers, or in its words."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classified = [
        text.removeprefix(_CLASSIFIER).split(" :: ")[-1]
        for text in metadata.get_all("Classifier") or ()
        if text.startswith(_CLASSIFIER)
    ]
    known = [text for text in classified if text not in _VAGUE]
    words = next(iter((metadata.get("License") or "").strip().splitlines()), "")
    return " AND ".join(known) or re.sub(r"\s+", " ", words)


def _requirements(found: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in found.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


if __name__ == "__main__":
    print(licence_table())
