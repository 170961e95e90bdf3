"""The reference of the command line, read from the commands themselves."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from markdown_tables import table
from polykit.cli.group import COMMANDS


def command_reference() -> str:
    """Return a section for each of polykit's own commands: examples, arguments and options."""
    lines: list[str] = []
    for name in COMMANDS:
        command = typer.main.get_command(importlib.import_module(f"polykit.cli.{name}").app)
        lines += _section(command, f"polykit {name}", 2)
    return "\n".join(lines)


def _section(command: Any, words: str, level: int) -> Iterator[str]:
    context = typer.Context(command, info_name=words)
    yield from ("", f"{'#' * level} `{words}`", "", *_help(command.help or ""), "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("```text", f"{words} {usage}", "```", "")
    for panel, rows in _panels(command, context).items():
        yield from ("", f"**{panel}**", "", *table(("", "meaning"), rows))
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            yield from _section(command.get_command(context, name), f"{words} {name}", level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; what is not to be wrapped is a block of examples."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("\b\n"):
            yield from ("", "```text", dedent(paragraph.removeprefix("\b\n")), "```")
        else:
            yield from ("", _plain(paragraph))


def _panels(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None)
            rows = panels.setdefault(panel or ("Arguments" if argument else "Options"), [])
            rows.append((f"`{_plain(record[0])}`", _plain(record[1])))
    return panels


def _plain(text: str) -> str:
    """Leave out rich's markup."""
    return Text.from_markup(text).plain
