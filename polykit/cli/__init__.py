"""The command line: parses, calls one function of `polykit.session`, prints.

Nothing here imports torch before a command that needs it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from polykit import __version__
from polykit.cli.group import Group

app = typer.Typer(
    name="polykit",
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and leave with its exit code."""
    app(prog_name="polykit")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polykit {__version__}")
        raise typer.Exit


@app.callback(epilog="Start with:  polykit analyze --dry-run")
def polykit(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="no:NAME",
            help="Leave out a plugin, by its name or its distribution's. Repeatable. "
            "POLYKIT_DISABLE=NAME,NAME does the same.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log more, tracebacks of errors included.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log errors only, and show no progress.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None:
    """Find which parts of a network carry which features, and what pruning does to that."""
    # The options are read by `state_of`: the group needs them before it calls this function.
