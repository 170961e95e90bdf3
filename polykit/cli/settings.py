"""Options of the command line made from a config class, and their values layered.

Precedence: command line, then environment, then file, then the class's own defaults.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.markup import escape
from typer.models import OptionInfo

from polykit.cli.fields import bounds_text, default_of, type_text
from polykit.entries import read_value
from polykit.errors import UsageError, did_you_mean
from polykit.workflows.config import value_text

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Layout:
    """How a command shows its options.

    `flags` names the options that are not called like their field, `places` the help panel of a
    field, `rest` that of the others; `panels` is the order of the panels. `environment` begins the
    names of the variables that can set a field.
    """

    flags: Mapping[str, str]
    places: Mapping[str, str]
    rest: str
    panels: Sequence[str]
    environment: str


def set_options(
    command: Callable[..., None],
    own: Sequence[inspect.Parameter],
    config: type[BaseModel],
    layout: Layout,
) -> None:
    """Give `command` its `own` options, and one for every field of `config` not among those.

    Fields arrive in its keyword arguments as text, or None if not given.
    """
    named = {parameter.name for parameter in own}
    context = inspect.signature(command, eval_str=True).parameters["ctx"]
    every = [*(p for p in parameters(config, layout) if p.name not in named), context, *own]

    def place(parameter: inspect.Parameter) -> int:
        """Where in the help an option belongs; the context and arguments come first."""
        option = (getattr(parameter.annotation, "__metadata__", None) or (None,))[0]
        if not isinstance(option, OptionInfo):
            return -1
        return layout.panels.index(str(option.rich_help_panel))

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in sorted(every, key=place)]
    )


def parameters(config: type[BaseModel], layout: Layout) -> list[inspect.Parameter]:
    """Return a command's parameter for every field of `config`, tables of `options` included."""
    return [
        (_table if _is_table(field) else _parameter)(name, field, layout)
        for name, field in config.model_fields.items()
    ]


def origins(ctx: typer.Context) -> dict[str, str]:
    """Map what the user gave to how it was given: an option, or an environment variable."""
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            found[parameter.name or ""] = parameter.opts[-1]
        elif source is not None and source.name == "ENVIRONMENT":
            found[parameter.name or ""] = str(parameter.envvar)
    return found


def flag_of(name: str) -> str:
    """Write a field's name as an option.

    >>> flag_of("prune_at")
    '--prune-at'
    """
    return "--" + name.replace("_", "-")


def _parameter(name: str, field: FieldInfo, layout: Layout) -> inspect.Parameter:
    flag = layout.flags.get(name, flag_of(name))
    default = default_of(field)
    about = [] if _is_list(field) else [bounds_text(field)]
    text = "" if default is None else value_text(default).replace(",", " ")
    about += [f"default: {text}"] if text else []
    more = "; ".join(part for part in about if part)
    again = " Repeatable." if _is_list(field) else ""
    names = [flag, f"--no-{flag.removeprefix('--')}"] if field.annotation is bool else [flag]
    option = typer.Option(
        "/".join(names),
        metavar=None if field.annotation is bool else _metavar(field),
        help=escape(f"{field.description}{f' ({more})' * bool(more)}.{again}"),
        envvar=layout.environment + name.upper(),
        show_envvar=False,
        show_default=False,
        rich_help_panel=layout.places.get(name, layout.rest),
    )
    kind: Any = list[str] | None if _is_list(field) else str | None
    if field.annotation is bool:
        kind = bool | None
    annotation = Annotated[kind, option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _table(name: str, field: FieldInfo, layout: Layout) -> inspect.Parameter:
    """The option that sets entries of a table, which `read_options` reads."""
    option = typer.Option(
        "-o",
        "--option",
        metavar="KEY=VALUE",
        help="Set an option of a plugin, e.g. force.rounds=5. Repeatable.",
        envvar=layout.environment + name.upper(),
        show_envvar=False,
        rich_help_panel=layout.places.get(name, layout.rest),
    )
    annotation = Annotated[list[str] | None, option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, list)


def _is_table(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (dict, Mapping)


def _metavar(field: FieldInfo) -> str:
    text = type_text(field.annotation).removeprefix("list of ").removesuffix(" | none")
    return {"str": "TEXT", "int": "INT", "float": "FLOAT"}.get(text, text.replace(" ", ""))


def read_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read `PLUGIN.OPTION=VALUE` as often as given.

    >>> read_options(["force.rounds=5", "mlp.widths=64,32"])
    {'force': {'rounds': '5'}, 'mlp': {'widths': '64,32'}}
    """
    tables: dict[str, dict[str, Any]] = {}
    for text in texts:
        address, equals, value = text.partition("=")
        plugin, dot, option = address.rpartition(".")
        if not (equals and dot and plugin and option):
            raise UsageError(
                f"-o {text!r} is not understood; write PLUGIN.OPTION=VALUE, e.g. -o force.rounds=5"
            )
        tables.setdefault(plugin, {})[option] = read_value(value)
    return tables


def read_file(path: Path, config: type[BaseModel]) -> dict[str, Any]:
    """Read a TOML file whose keys are the fields of `config`."""
    values = read_toml(path, "config file")
    check_keys(path, values, config)
    return values


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; raise UsageError, which calls it `what`, if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the {what} {path} is no TOML: {error}") from error


def check_keys(path: Path, values: Mapping[str, Any], config: type[BaseModel]) -> None:
    """Raise UsageError for a key that is no field of `config`."""
    for key in values:
        if key not in config.model_fields:
            known = ", ".join(config.model_fields)
            hint = did_you_mean(key, config.model_fields)
            raise UsageError(f"{path} has an unknown key {key!r}.{hint} The keys: {known}")


def layer(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` above `values`; tables are laid entry by entry.

    >>> layer({"a": 1, "t": {"x": 1, "y": 1}}, {"t": {"y": 2}})
    {'a': 1, 't': {'x': 1, 'y': 2}}
    """
    result = dict(values)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = layer(below, value) if both else value  # type: ignore[arg-type]
    return result


def build(config: type[Config], values: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    """Make the config; a UsageError names each bad value by where it came from.

    `origins` maps a field to what the user wrote it with: an option, a variable or a file's key.
    """
    try:
        return config(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = [str(part) for part in problem["loc"]]
            reason = problem["msg"].removeprefix("Value error, ")
            name = origins.get(place[0], place[0]) if place else ""
            if any(isinstance(part, str) for part in problem["loc"][1:]):
                name = f"{name} {'.'.join(place[1:])}"
            if problem["type"] == "missing":
                lines.append(f"{name} is missing; give it a value")
                continue
            value = problem["input"]
            text = value_text(value) if isinstance(value, list | tuple) else repr(value)
            lines.append(f"{name} {text}: {reason}" if name else reason)
        raise UsageError("; ".join(lines)) from None
