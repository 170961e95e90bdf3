"""The command group: imports a command only when it is called, plugins' commands included."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from polykit.cli.output import log_to_stderr
from polykit.errors import PluginError, PolykitError, UsageError, did_you_mean

if TYPE_CHECKING:
    from polykit.entries import Found
    from polykit.registry import Registry

GROUP = "polykit"
"""The entry-point group of plugins."""

COMMANDS = {
    "analyze": "Prune with any pruner, measure with any metric.",
    "density": "Find how dense networks of several widths want to be.",
    "basis": "Draw what acts on what between layers, and find modules.",
    "clusters": "Find units that several groups of pictures drive.",
    "dissect": "Find the parts that carry a unit's clusters, beside controls.",
    "visualize": "Show what a unit looks for, and which pixels make its value.",
    "compare": "Show what lies between networks, and how alike they are.",
    "run": "Run a whole study from one file.",
    "data": "Show a dataset, and how well it came out.",
    "report": "Write the report page of a saved run.",
    "runs": "List, show and repeat saved runs.",
    "plugins": "List, explain, check and make plugins.",
}
"""Polykit's own commands: each is the `app` of the module of its name in this package."""

_log = logging.getLogger("polykit")


@dataclass
class State:
    """What the global options chose; commands find it in their context."""

    blocked: tuple[str, ...] = ()
    quiet: bool = False
    verbose: bool = False
    foreign: Found | None = None
    _warned: bool = field(default=False, repr=False)

    @cached_property
    def registry(self) -> Registry:
        """All plugins but the blocked ones."""
        from polykit.registry import Registry

        from_environment = os.environ.get("POLYKIT_DISABLE", "").split(",")
        disabled = [*self.blocked, *(name.strip() for name in from_environment if name.strip())]
        registry = Registry.discover(disabled=disabled)
        known = {name for plugin in registry.plugins for name in (plugin.name, plugin.distribution)}
        known |= {f"{plugin.distribution}:{plugin.name}" for plugin in registry.plugins}
        for name in self.blocked:
            if name not in known:
                raise UsageError(
                    f"-p no:{name} blocks nothing: no plugin or distribution has that name."
                    f"{did_you_mean(name, known)}"
                )
        return registry

    @cached_property
    def plugin_commands(self) -> dict[str, Found]:
        """Plugins' commands by name, or by `distribution:name` where the name is taken."""
        if all(point.dist and point.dist.name == "polykit" for point in entry_points(group=GROUP)):
            return {}  # polykit brings none but its own, so help need not wait for the registry
        found = list(self.registry.entries("command"))
        names = [*COMMANDS, *(one.entry.name for one in found)]
        return {
            one.entry.name
            if names.count(one.entry.name) == 1
            else f"{one.distribution}:{one.entry.name}": one
            for one in found
        }

    def working_registry(self) -> Registry:
        """The registry, after one warning for each plugin that is broken."""
        for plugin in () if self._warned else self.registry.plugins:
            if plugin.status == "broken":
                _log.warning(
                    "plugin %s of %s is broken and left out: %s (see: polykit plugins check)",
                    plugin.name,
                    plugin.distribution,
                    plugin.problem,
                )
        self._warned = True
        return self.registry


def state_of(ctx: Any) -> State:
    """Return the state that all commands of one call share."""
    root = ctx.find_root()
    if root.obj is None:
        blocked = []
        for text in root.params.get("plugin") or ():
            word, _, name = text.partition(":")
            if word != "no" or not name:
                raise UsageError(f"-p {text!r} is not understood; -p no:NAME blocks a plugin")
            blocked.append(name)
        quiet, verbose = (bool(root.params.get(name)) for name in ("quiet", "verbose"))
        if verbose and quiet:
            raise UsageError("--verbose and --quiet exclude each other; drop one")
        log_to_stderr(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
        root.obj = State(tuple(blocked), quiet, verbose)
    state: State = root.obj
    return state


class Lazy(TyperCommand):
    """A command that is known by name and summary only, until it is called."""

    def __init__(
        self, name: str, summary: str, load: Callable[[], Any], foreign: Found | None = None
    ) -> None:
        super().__init__(name, help=summary)
        self.load, self.foreign = load, foreign


class Group(TyperGroup):
    """Lists commands without importing them, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name polykit's commands in their order, then those of plugins."""
        return [*COMMANDS, *state_of(ctx).plugin_commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the stand-in of a command, or None if nobody brings it."""
        if cmd_name in COMMANDS:
            return Lazy(cmd_name, COMMANDS[cmd_name], lambda: _own(cmd_name))
        commands = state_of(ctx).plugin_commands
        if cmd_name in commands:
            found = commands[cmd_name]
            summary = f"{found.entry.summary} ({found.distribution})"
            return Lazy(cmd_name, summary, lambda: _foreign(found), found)
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is called; raise UsageError, with the nearest, for no command."""
        name, *rest = args
        command, state = self.get_command(ctx, name), state_of(ctx)
        if command is not None:
            state.foreign = command.foreign
            return name, command.load(), rest
        commands = state.plugin_commands
        if any(found.entry.name == name for found in commands.values()):
            state.registry.find("command", name)  # raises: several plugins bring it
        state.working_registry()  # warns: a broken plugin may be why it is missing
        hint = did_you_mean(name, [*COMMANDS, *commands])
        raise UsageError(f"no command is called {name!r}.{hint} `polykit --help` lists all")

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a user's mistake becomes one line, never a traceback."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, not at interpreter exit
        except PolykitError as error:
            _log.debug("traceback", exc_info=True)
            _leave(f"error: {' '.join(str(error).splitlines())}", error.exit_code)
        except KeyboardInterrupt as interrupt:
            _leave(str(interrupt) or "interrupted", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            found = state_of(ctx).foreign
            if found is None or hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            _log.debug("traceback", exc_info=True)
            _leave(
                f"error: command {found.entry.name!r} of {found.distribution} is broken: it raised "
                f"{type(error).__name__}: {error}",
                PluginError.exit_code,
            )
        return result


def _leave(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code) from None


def _own(name: str) -> Any:
    return typer.main.get_command(importlib.import_module(f"polykit.cli.{name}").app)


def _foreign(found: Found) -> Any:
    """Make a command of what a plugin brings: a Typer app, a Click command or a function."""
    target = found.target
    if isinstance(target, TyperCommand | TyperGroup):
        return target
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    if callable(getattr(target, "make_context", None)):
        return _Click(found)
    if callable(target):
        app = typer.Typer(add_completion=False)
        app.command(help=found.entry.summary)(target)
        return typer.main.get_command(app)
    raise PluginError(
        f"command {found.entry.name!r} of {found.distribution} is broken: {found.entry.target} is "
        f"no Typer app, Click command or function"
    )


class _Click(TyperCommand):
    """Hands the arguments as they are to a command of the click package.

    Typer may carry a click of its own, whose groups take no commands of the other.
    """

    def __init__(self, found: Found) -> None:
        super().__init__(found.entry.name, help=found.entry.summary, add_help_option=False)
        self._command = found.target

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []

    def invoke(self, ctx: Any) -> Any:
        errors: Any = importlib.import_module("click.exceptions")
        try:
            with self._command.make_context(ctx.command_path, ctx.args) as inner:
                return self._command.invoke(inner)
        except errors.Exit as exit_:
            raise typer.Exit(exit_.exit_code) from None
        except errors.ClickException as error:
            error.show()
            raise typer.Exit(error.exit_code) from None
