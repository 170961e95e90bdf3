"""A plugin under test, and how checks judge it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from polykit.entries import Found
from polykit.errors import PluginError, PolykitError, UsageError
from polykit.registry import Registry


@dataclass(frozen=True)
class Plugin:
    """An Entry under test; `options(folder)` says with which options, if not the defaults."""

    registry: Registry
    found: Found
    options: Callable[[Path], Mapping[str, Any]] = lambda _: {}

    def create(self, folder: Path, **more: Any) -> Any:
        """Make an instance, through the registry as a run does."""
        entry = self.found.entry
        spec = f"{self.found.distribution}:{entry.name}"
        options = {**self.options(folder), **more}
        return self.registry.create(entry.kind, spec, options).instance

    def variants(self, folder: Path) -> Iterator[tuple[str, Any]]:
        """Yield the instance to test, then one more for every other choice an option offers.

        Choices that the plugin refuses in combination with the other options are left out.
        """
        instance = self.create(folder)
        yield "as it comes", instance
        for name, field in self.found.options.model_fields.items():
            for choice in _choices(field.annotation):
                if choice != getattr(instance, name):
                    try:
                        yield f"{name}={choice}", self.create(folder, **{name: choice})
                    except UsageError:
                        continue


def _choices(annotation: Any) -> tuple[Any, ...]:
    """All values of a Literal or bool (also within a union); nothing for other types."""
    if annotation is bool:
        return (False, True)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(value for part in get_args(annotation) for value in _choices(part))
    return ()


def expect(condition: bool, message: str) -> None:
    """Raise AssertionError with a message that stands alone: pytest rewrites no asserts here."""
    if not condition:
        raise AssertionError(message)


def answer_all(cases: Iterable[tuple[str, Callable[[], None]]]) -> None:
    """Run every case; each must pass or be refused with a reason, and one at least must pass."""
    refusals, passed = [], 0
    for label, run in cases:
        try:
            run()
        except PluginError:
            raise
        except PolykitError as refusal:
            expect(bool(str(refusal).strip()), f"{label}: refused without a reason")
            refusals.append(f"{label}: {refusal}")
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
        else:
            passed += 1
    expect(passed > 0, "it runs on nothing at all:\n" + "\n".join(refusals))
