"""Finds plugins, keeps the broken ones apart, and makes instances from what a user wrote.

Entry points are loaded one by one: a plugin that raises at import, misspells a hook, or returns
nonsense is listed as broken with its traceback, leaves nothing behind, and the rest works.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pluggy

from polykit import hookspecs
from polykit.api import KINDS, Entry, Kind
from polykit.entries import Chosen, Found, make, read_options
from polykit.errors import PluginError, UsageError, did_you_mean

GROUP = "polykit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("polykit_"))
_log = logging.getLogger("polykit")


@dataclass(frozen=True)
class PluginInfo:
    """One entry point: what it is, where it comes from, and whether it works."""

    name: str
    distribution: str
    version: str
    status: Literal["ok", "broken", "blocked"]
    problem: str = ""
    traceback: str = ""
    entries: tuple[Entry, ...] = ()


class Registry:
    """The plugins of this process. Make one with `Registry.discover()`."""

    def __init__(self) -> None:
        self._manager = _new_manager()
        self.plugins: list[PluginInfo] = []

    @classmethod
    def discover(
        cls,
        *,
        disabled: Iterable[str] = (),
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> Registry:
        """Load all entry points of the group but those disabled by plugin or distribution name."""
        registry = cls()
        blocked = set(disabled)
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=GROUP)
        points = sorted(entry_points, key=lambda point: (_owner(point)[0], point.name))
        for point in points:
            distribution, version = _owner(point)
            if blocked & {point.name, distribution, f"{distribution}:{point.name}"}:
                info = PluginInfo(point.name, distribution, version, "blocked", "disabled by you")
            else:
                info = registry._load(point, distribution, version)
            registry.plugins.append(info)
        return registry

    def register(self, plugin: object, name: str, distribution: str = "this process") -> PluginInfo:
        """Register a module or object as a plugin; broken ones are listed, not raised."""
        info = self._adopt(plugin, name, distribution, "")
        self.plugins.append(info)
        return info

    def _load(
        self, point: importlib.metadata.EntryPoint, distribution: str, version: str
    ) -> PluginInfo:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            return _broken(point.name, distribution, version, f"importing {point.value}", error)
        return self._adopt(plugin, point.name, distribution, version)

    def _adopt(self, plugin: object, name: str, distribution: str, version: str) -> PluginInfo:
        """Try the plugin on a manager of its own first: pluggy leaves misfits half-registered."""
        key = f"{distribution}:{name}"
        step = "registering"
        try:
            _check_spelling(plugin)
            trial = _new_manager()
            trial.register(plugin, key)
            trial.check_pending()
            step = "polykit_entries"
            entries = tuple(_checked(trial.hook.polykit_entries()))
            self._manager.register(plugin, key)
        except (Exception, SystemExit) as error:
            return _broken(name, distribution, version, step, error)
        return PluginInfo(name, distribution, version, "ok", entries=entries)

    def _call(self, key: str, hook: str, **arguments: Any) -> list[Any]:
        """Call one hook of one plugin, wrappers included."""
        others = [plugin for name, plugin in self._manager.list_name_plugin() if name != key]
        caller = self._manager.subset_hook_caller(hook, [p for p in others if p is not None])
        result = caller(**arguments)
        return result if isinstance(result, list) else [result]

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin; one that raises is logged by name and does not stop the others."""
        caller = getattr(self._manager.hook, hook)
        for key in [implementation.plugin_name for implementation in caller.get_hookimpls()]:
            try:
                self._call(key, hook, **arguments)
            except Exception as error:
                _report(key, hook, error)

    def entries(self, kind: Kind | None = None) -> Iterator[Found]:
        """Yield the entries of all working plugins, in order of kind, name and distribution."""
        found = [
            Found(entry, plugin.distribution)
            for plugin in self.plugins
            for entry in plugin.entries
            if kind is None or entry.kind == kind
        ]
        key: Callable[[Found], Any] = lambda f: (  # noqa: E731
            KINDS.index(f.entry.kind),
            f.entry.name,
            f.distribution,
        )
        yield from sorted(found, key=key)

    def matching(self, name: str, kind: Kind | None = None) -> list[Found]:
        """Return the entries called `name` or `distribution:name`, of one kind or of any.

        Raises UsageError for an unknown name (with the nearest), PluginError for a plugin that is
        broken.
        """
        distribution, _, bare = name.rpartition(":")
        known = list(self.entries(kind))
        named = [
            found
            for found in known
            if found.entry.name == bare and distribution in ("", found.distribution)
        ]
        if named:
            return named
        broken = [plugin for plugin in self.plugins if plugin.status == "broken"]
        for plugin in broken:
            if name in (plugin.name, plugin.distribution) or distribution == plugin.distribution:
                raise PluginError(
                    f"plugin {plugin.name!r} of {plugin.distribution} is broken: {plugin.problem}"
                )
        hint = did_you_mean(bare, [found.entry.name for found in known])
        only = f" --kind {kind}" if kind else ""
        also = f" (broken: {', '.join(plugin.distribution for plugin in broken)})" if broken else ""
        raise UsageError(
            f"no {kind or 'plugin'} is called {name!r}.{hint} `polykit plugins list{only}` shows "
            f"all{also}"
        )

    def find(self, kind: Kind, name: str) -> Found:
        """Return the entry called `name` or `distribution:name`.

        Raises what `matching` raises, and UsageError for a name that two distributions bring.
        """
        named = self.matching(name, kind)
        if len(named) > 1:
            choices = " or ".join(f"{found.distribution}:{found.entry.name}" for found in named)
            raise UsageError(f"{kind} {name!r} is brought by several plugins; write {choices}")
        return named[0]

    def locate(self, kind: Kind, spec: str) -> tuple[Found, dict[str, str]]:
        """Read `name`, `name:option=value,…`, `name:argument` or `distribution:name:…`.

        Returns the entry and the options as text. Names that nobody registered are offered to
        the plugins' `polykit_resolve` hooks before they are called unknown.
        """
        parts = spec.split(":")
        known = list(self.entries(kind))
        names = {found.entry.name for found in known}
        qualified = {(found.distribution, found.entry.name) for found in known}
        if len(parts) > 1 and (parts[0], parts[1]) in qualified:
            head, rest = f"{parts[0]}:{parts[1]}", ":".join(parts[2:])
        else:
            head, rest = parts[0], ":".join(parts[1:])
        if ":" in head or head in names:
            found = self.find(kind, head)
            return found, read_options(found, rest)
        for found in self._resolved(kind, spec):
            argument = found.options.argument
            if found.entry.name != head:
                return found, {argument: spec}
            options = read_options(found, rest)
            if argument in options:
                raise UsageError(
                    f"{kind} {head!r} takes option=value after the colon, not {options[argument]!r}"
                )
            return found, {argument: head, **options}
        return self.find(kind, head), {}

    def _resolved(self, kind: Kind, spec: str) -> Iterator[Found]:
        """Yield what the plugins' `polykit_resolve` hooks make of a name nobody registered."""
        for key, _ in self._manager.list_name_plugin():
            try:
                answers = self._call(key, "polykit_resolve", kind=kind, spec=spec)
                entries = list(_checked([[entry for entry in answers if entry is not None]]))
            except Exception as error:
                _report(key, "polykit_resolve", error)
                continue
            yield from (Found(entry, key.partition(":")[0]) for entry in entries)

    def create(self, kind: Kind, spec: str, overrides: Mapping[str, Any] | None = None) -> Chosen:
        """Make a plugin instance from what a user wrote; raise UsageError for bad options.

        Options inside `spec` go before `overrides`, which hold for every use of the plugin.
        """
        found, options = self.locate(kind, spec)
        return make(found, spec, {**(overrides or {}), **options})

    def recreate(self, kind: Kind, record: Mapping[str, Any]) -> Chosen:
        """Make a plugin instance from `Chosen.record`; raise UsageError if it is not installed."""
        distribution, name = record["distribution"], record["name"]
        for found in self.entries(kind):
            if (found.distribution, found.entry.name) == (distribution, name):
                return make(found, name, record["options"])
        for found in self._resolved(kind, name):
            if found.distribution == distribution:
                return make(found, name, record["options"])
        raise UsageError(
            f"the run needs {kind} {name!r} of {distribution}, which is not installed or blocked"
        )


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _owner(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Distribution name and version of an entry point, whatever its metadata holds."""
    if point.dist is None:
        return "unknown", ""
    return point.dist.name or "unknown", point.dist.version or ""


def _broken(
    name: str, distribution: str, version: str, step: str, error: BaseException
) -> PluginInfo:
    problem = f"{step} raised {type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    return PluginInfo(name, distribution, version, "broken", problem, text)


def _report(key: str, hook: str, error: Exception) -> None:
    _log.warning("plugin %s raised in %s: %s: %s", key, hook, type(error).__name__, error)
    _log.debug("traceback", exc_info=error)


def _check_spelling(plugin: object) -> None:
    """Refuse functions that look like hooks and are none: pluggy would never call them."""
    for attribute in dir(plugin):
        if attribute.startswith("polykit_") and attribute not in _HOOKS:
            value = getattr(plugin, attribute)
            if callable(value) and not isinstance(value, type):
                raise PluginError(
                    f"{attribute} is no hook of polykit.{did_you_mean(attribute, _HOOKS)}"
                )
        elif attribute in _HOOKS and not hasattr(getattr(plugin, attribute), "polykit_impl"):
            raise PluginError(
                f"{attribute} is not marked with @hookimpl, so it would not be called"
            )


def _checked(results: Iterable[Any]) -> Iterator[Entry]:
    """Flatten and check what polykit_entries returned."""
    seen: set[tuple[str, str]] = set()
    for entry in (entry for result in results for entry in result):
        if not isinstance(entry, Entry):
            raise PluginError(f"polykit_entries returned {entry!r}, which is no Entry")
        if entry.kind not in KINDS:
            raise PluginError(
                f"entry {entry.name!r} is of the unknown kind {entry.kind!r}"
                f".{did_you_mean(entry.kind, KINDS)}"
            )
        _check_types(entry)
        if not _NAME.fullmatch(entry.name):
            raise PluginError(
                f"entry name {entry.name!r} is not made of letters, digits, '.', '_', '-'"
            )
        if not re.fullmatch(r"[\w.]+:[\w.]+", entry.target):
            raise PluginError(
                f"target {entry.target!r} of {entry.name!r} is not package.module:attribute"
            )
        if isinstance(entry.requires, str):
            raise PluginError(
                f"requires of {entry.name!r} is the text {entry.requires!r}; write "
                f"requires=({entry.requires!r},)"
            )
        if (entry.kind, entry.name) in seen:
            raise PluginError(f"{entry.kind} {entry.name!r} is registered twice by the same plugin")
        seen.add((entry.kind, entry.name))
        yield entry


def _check_types(entry: Entry) -> None:
    """Refuse what is no text, or no list of texts; an entry does not look at what it is given."""
    for field in ("name", "target", "summary", "source"):
        if not isinstance(value := getattr(entry, field), str):
            raise PluginError(f"the {field} of entry {entry.name!r} is {value!r}, which is no text")
    modules = entry.requires
    texts = isinstance(modules, tuple | list) and all(isinstance(m, str) for m in modules)
    if not (texts or isinstance(modules, str)):
        raise PluginError(f"requires of entry {entry.name!r} is {modules!r}, no list of modules")
