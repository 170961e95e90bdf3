"""One entry at a time: import what it names, read its options, make an instance."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from polykit.api import Entry, Kind, Options
from polykit.errors import PluginError, PolykitError, UsageError, did_you_mean


@dataclass(frozen=True)
class Found:
    """An Entry together with the distribution that brings it."""

    entry: Entry
    distribution: str

    @property
    def missing(self) -> list[str]:
        """The modules that the entry requires and that are not installed."""
        return [name for name in self.entry.requires if not _is_installed(name)]

    @cached_property
    def target(self) -> Any:
        """Import what the entry names; raise PluginError where that fails."""
        entry = self.entry
        if self.missing:
            raise PluginError(
                f"{entry.kind} {entry.name!r} ({self.distribution}) requires "
                f"{', '.join(self.missing)}; install it with: pip install {' '.join(self.missing)}"
            )
        module, _, attribute = entry.target.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except PolykitError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{entry.kind} {entry.name!r} of {self.distribution} is broken: importing "
                f"{entry.target} raised {type(error).__name__}: {error}; mend or block it with "
                f"-p no:{self.distribution}"
            ) from error
        return found

    @property
    def options(self) -> type[Options]:
        """The plugin class; raise PluginError if the target is not one."""
        target = self.target
        if not (isinstance(target, type) and issubclass(target, Options)):
            raise PluginError(
                f"{self.entry.target} of {self.distribution} is not a polykit plugin class; "
                f"derive it from a base class of polykit.api"
            )
        if missing := sorted(getattr(target, "__abstractmethods__", ())):
            raise PluginError(
                f"{self.entry.target} of {self.distribution} is not finished: it lacks "
                f"{', '.join(missing)}; define it, or name another class"
            )
        return target


@dataclass(frozen=True)
class Chosen:
    """A plugin instance, and the plain record that makes it again."""

    kind: Kind
    name: str
    distribution: str
    spec: str
    instance: Any

    @property
    def record(self) -> dict[str, Any]:
        """What the run keeps: name, distribution and every option."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "options": self.instance.model_dump(mode="json"),
        }


def make(found: Found, spec: str, options: Mapping[str, Any]) -> Chosen:
    """Make a plugin instance; raise UsageError for options it does not have or take."""
    plugin = found.options
    try:
        instance = plugin(**options)
    except ValidationError as error:
        raise UsageError(_explain(found.entry, plugin, error)) from None
    return Chosen(found.entry.kind, found.entry.name, found.distribution, spec, instance)


def read_options(found: Found, text: str) -> dict[str, Any]:
    """Split `argument,option=value,…`; a piece without `=` goes on with the value before it."""
    if not text:
        return {}
    options: dict[str, Any] = {}
    current = ""
    fields = found.options.model_fields
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if equals and (name in fields or re.fullmatch(r"[A-Za-z_]\w*", name)):
            current, options[name] = name, value
        elif current:
            options[current] += f",{piece}"
        elif found.options.argument:
            current = found.options.argument
            options[current] = piece
        else:
            raise UsageError(
                f"{found.entry.kind} {found.entry.name!r} takes option=value, not {piece!r}; "
                f"its options: {', '.join(fields) or 'none'}"
            )
    return {name: read_value(value) for name, value in options.items()}


def read_value(text: str) -> Any:
    """Read an option's text: `none` is None, everything else is left to the option's type.

    >>> read_value("none"), read_value("12")
    (None, '12')
    """
    return None if text.lower() == "none" else text


def _explain(entry: Entry, plugin: type[Options], error: ValidationError) -> str:
    """Turn a validation error into one line that names option, value, reason and remedy."""
    lines = []
    for problem in error.errors():
        option = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = list(plugin.model_fields)
            lines.append(
                f"has no option {option!r}.{did_you_mean(option, known)} "
                f"It has: {', '.join(known) or 'none'}"
            )
        elif option:
            lines.append(f"option {option}={problem['input']!r}: {problem['msg']}")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return (
        f"{entry.kind} {entry.name!r} {'; '.join(lines)} (see: polykit plugins info {entry.name})"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a dotted name whose parent is missing
        return False
