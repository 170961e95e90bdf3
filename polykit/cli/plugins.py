"""`polykit plugins`: what there is, what it does, whether it works, and how to begin one."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from polykit.api import KINDS, Kind
from polykit.cli.fields import describe
from polykit.cli.group import COMMANDS, State, state_of
from polykit.cli.output import new_table, note, print_json, print_table, say
from polykit.entries import Found
from polykit.errors import PluginError, UsageError, did_you_mean
from polykit.registry import PluginInfo, Registry
from polykit.workflows.config import value_text

app = typer.Typer(
    help="List, explain, check and make plugins.",
    epilog="Start with:  polykit plugins list  ·  polykit plugins info force",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

KindOption = Annotated[
    str | None, typer.Option("--kind", metavar="KIND", help=f"Only one of: {', '.join(KINDS)}.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_plugins(ctx: typer.Context, kind: KindOption = None, as_json: JsonOption = False) -> None:
    """List plugins, broken and blocked ones with the reason."""
    registry = state_of(ctx).registry
    found = list(registry.entries(_kind(kind)))
    troubled = [plugin for plugin in registry.plugins if plugin.status != "ok"]
    if as_json:
        entries = [_summary(one) for one in found]
        print_json({"plugins": entries, "packages": [_package(p) for p in registry.plugins]})
        return
    table = new_table("kind", "name", "summary", "from")
    for one in found:
        needs = f" (needs: pip install {' '.join(one.missing)})" if one.missing else ""
        entry = one.entry
        table.add_row(entry.kind, entry.name, entry.summary + needs, one.distribution)
    print_table(table)
    for plugin in troubled:
        say(f"\n{plugin.status}: {plugin.name} of {plugin.distribution}: {plugin.problem}")
    for line in conflicts(registry):
        say(f"\nconflict: {line}")


@app.command()
def info(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A plugin's name, or distribution:name.")],
    kind: KindOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a plugin: its options, what it reports, its source and where it comes from."""
    found = [_details(one) for one in state_of(ctx).registry.matching(name, _kind(kind))]
    if as_json:
        print_json({"plugins": found})
        return
    for position, details in enumerate(found):
        if position:
            say("")
        _print_details(details)


@app.command()
def check(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Import every plugin; exit 3 if one is broken, 1 if two share a name."""
    state = state_of(ctx)
    broken = list(_broken(state))
    clashes = conflicts(state.registry)
    if as_json:
        print_json({"broken": broken, "conflicts": clashes})
    else:
        for problem in broken:
            say(f"broken: {problem['plugin']} of {problem['distribution']}: {problem['problem']}")
            if state.verbose:
                note(problem["traceback"])
        for line in clashes:
            say(f"conflict: {line}")
        if not broken and not clashes:
            say(f"{len(list(state.registry.entries()))} plugins, all of them sound")
        elif broken and not state.verbose:
            note("polykit --verbose plugins check shows the tracebacks")
    raise typer.Exit(3 if broken else 1 if clashes else 0)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The new distribution's name, e.g. polykit-mine.")],
    directory: Annotated[
        Path, typer.Option("--in", help="Where to write the package's folder.", show_default="here")
    ] = Path(),
) -> None:
    """Write a plugin package with a pruner, a metric and tests that pass."""
    from polykit.cli.scaffold import write_package

    folder = write_package(name, directory)
    say(f"wrote {folder}")
    note(f"next:  cd {shlex.quote(str(folder))} && pip install -e '.[test]' && python -m pytest")


def conflicts(registry: Registry) -> list[str]:
    """Say which names several distributions bring, or polykit keeps for its own commands."""
    names: dict[tuple[Kind, str], list[str]] = {}
    for found in registry.entries():
        names.setdefault((found.entry.kind, found.entry.name), []).append(found.distribution)
    lines = []
    for (kind, name), owners in names.items():
        hidden = kind == "command" and name in COMMANDS
        if hidden or len(owners) > 1:
            brought = [*owners, "polykit itself"] if hidden else owners
            choices = " or ".join(f"{owner}:{name}" for owner in owners)
            lines.append(f"{kind} {name!r} is brought by {' and '.join(brought)}; write {choices}")
    return lines


def _kind(text: str | None) -> Kind | None:
    for kind in KINDS:
        if text == kind:
            return kind
    if text is None:
        return None
    raise UsageError(f"no kind is called {text!r}.{did_you_mean(text, KINDS)} {', '.join(KINDS)}")


def _summary(found: Found) -> dict[str, Any]:
    entry = found.entry
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "distribution": found.distribution,
        "target": entry.target,
        "requires": list(entry.requires),
        "missing": found.missing,
    }


def _package(plugin: PluginInfo) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "problem": plugin.problem,
    }


def _details(found: Found) -> dict[str, Any]:
    details = _summary(found)
    if found.entry.kind == "command":
        return details
    plugin = found.options
    details["doc"] = inspect.getdoc(plugin) or ""
    details["argument"] = plugin.argument
    details["options"] = describe(plugin)
    if found.entry.kind == "metric":
        columns = getattr(plugin, "columns", {})
        details["headline"] = getattr(plugin, "headline", "")
        details["columns"] = [
            {"name": name, "summary": column.summary, "unit": column.unit, "range": column.range}
            for name, column in columns.items()
        ]
    if found.entry.kind == "pruner":
        details["chooses_density"] = getattr(plugin, "chooses_density", False)
    return details


def _print_details(details: dict[str, Any]) -> None:
    say(f"{details['kind']} {details['name']}: {details['summary']}")
    say(f"  from      {details['distribution']} ({details['target']})")
    for label in ("source", "doc"):
        if details.get(label):
            say(f"  {label:<9} " + details[label].replace("\n", "\n            "))
    if details["requires"]:
        missing = f"; missing: {', '.join(details['missing'])}" if details["missing"] else ""
        say(f"  requires  {', '.join(details['requires'])}{missing}")
    if details.get("options"):
        say("")
        table = new_table("option", "type", "bounds", "default", "description")
        for option in details["options"]:
            text = "" if option["default"] is None else value_text(option["default"])
            cells = (option["name"], option["type"], option["bounds"], text)
            table.add_row(*cells, option["description"])
        print_table(table)
    if details.get("columns"):
        say("")
        table = new_table("column", "range", "unit", "meaning")
        for column in details["columns"]:
            name = column["name"] + (" *" if column["name"] == details["headline"] else "")
            table.add_row(name, column["range"], column["unit"], column["summary"])
        print_table(table)
        if details["headline"]:
            say("* the one that figures and verdicts show")


def _broken(state: State) -> list[dict[str, str]]:
    """Collect what does not load: whole plugins, and entries whose target does not import."""
    import traceback

    problems = [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "problem": plugin.problem,
            "traceback": plugin.traceback,
        }
        for plugin in state.registry.plugins
        if plugin.status == "broken"
    ]
    for found in state.registry.entries():
        if found.missing:
            continue
        try:
            _ = found.target if found.entry.kind == "command" else found.options
        except PluginError as error:
            problems.append(
                {
                    "plugin": f"{found.entry.kind} {found.entry.name}",
                    "distribution": found.distribution,
                    "problem": str(error),
                    "traceback": "".join(traceback.format_exception(error)),
                }
            )
    return problems
