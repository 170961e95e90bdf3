"""`polykit analyze`: the main job."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from polykit.api import Kind
from polykit.cli import settings
from polykit.cli.group import state_of
from polykit.cli.output import print_json, say
from polykit.cli.results import carry_out
from polykit.cli.runs import (
    PANEL,
    RUNS,
    JsonOption,
    OutOption,
    ReportOption,
    ResumeOption,
    RunsDirOption,
)
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.workflows.analyze.config import FLAGS, AnalyzeConfig

EXAMPLES = """Train or load networks, prune them, and measure what that did to their units.

\b
  polykit analyze
  polykit analyze --pruner force --metric ig --density 0.1 --seed 0
  polykit analyze --pruner force:rounds=20,schedule=linear -o ig.at=post
  polykit analyze --model mlp:widths=300,100 --dataset mnist --data-root data
  polykit analyze --model resnet18 --weights DEFAULT --granularity unit
  polykit analyze --config sweep.toml --dry-run
  polykit analyze --resume runs/NAME
"""
EPILOG = (
    "Each option named after a field of the configuration can also be set in the file, by the "
    f"field's name, or as {settings.ENVIRONMENT}FIELD (several values: separated by blanks). What "
    "is written here goes before the environment, the environment before the file."
)
WHAT, HOW, TRAINING = "What to run", "What to prune and measure", "Training"
PANELS = [WHAT, HOW, TRAINING, PANEL]
PLACES = {
    **dict.fromkeys(("model", "dataset", "checkpoint", "pruners", "metrics"), WHAT),
    **dict.fromkeys(("densities", "seeds", "control"), WHAT),
    **dict.fromkeys(("layers", "prune_layers", "granularity", "scope", "objective"), HOW),
    **dict.fromkeys(("prune_at", "score_samples"), HOW),
    **dict.fromkeys(("device", "engine"), PANEL),
}

WITH_RESUME = ("resume", "as_json", "report", "runs_dir")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


def analyze(
    ctx: typer.Context,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--option",
            metavar="KEY=VALUE",
            envvar=settings.ENVIRONMENT + "OPTIONS",
            show_envvar=False,
            help="Set an option of a plugin, e.g. force.rounds=5. Repeatable.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="The model's option `weights`.", metavar="NAME", rich_help_panel=WHAT),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="The dataset's option `root`.", rich_help_panel=WHAT)
    ] = None,
    download: Annotated[
        bool,
        typer.Option("--download", help="The dataset's `download`.", rich_help_panel=WHAT),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Read the configuration.", rich_help_panel=PANEL),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan and its cost.", rich_help_panel=PANEL),
    ] = False,
    resume: ResumeOption = None,
    out: OutOption = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
    report: ReportOption = True,
    **fields: Any,
) -> None:
    """See EXAMPLES, which is what `--help` shows."""
    from polykit import session

    state, origins = state_of(ctx), _origins(ctx)
    finish = partial(carry_out, state, as_json=as_json, report=report)
    if resume is not None:
        used = [how for name, how in origins.items() if name not in WITH_RESUME and how[0] == "-"]
        if used:
            raise UsageError(
                f"--resume goes on with the run's own configuration; drop {', '.join(used)}"
            )
        finish(lambda plugins: session.resume(resume, plugins))
        return
    values = settings.read_file(config, AnalyzeConfig) if config else {}
    in_file = {name: f"{name} in {config}:" for name in values}
    values = settings.layer(values, {n: v for n, v in fields.items() if n in origins})
    of_model = {"weights": weights} if weights else {}
    of_dataset = {"root": str(data_root)} if data_root else {}
    of_dataset |= {"download": "true"} if download else {}
    registry = state.working_registry()
    for table in (
        _by_name(registry, "model", values, of_model),
        _by_name(registry, "dataset", values, of_dataset),
        settings.read_options(option or ()),
    ):
        values = settings.layer(values, {"options": table})
    chosen = settings.build(AnalyzeConfig, values, in_file | origins)
    if not dry_run:
        finish(lambda plugins: session.run(chosen, plugins, out=out, runs_dir=runs_dir))
    elif as_json:
        print_json(session.plan(chosen, registry).to_dict())
    else:
        say("\n".join(session.plan(chosen, registry).lines()))


def _origins(ctx: typer.Context) -> dict[str, str]:
    """Map what the user gave to how it was given: an option, or an environment variable."""
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            found[parameter.name or ""] = parameter.opts[-1]
        elif source is not None and source.name == "ENVIRONMENT":
            found[parameter.name or ""] = str(parameter.envvar)
    return found


def _by_name(
    registry: Registry, kind: Kind, values: Mapping[str, Any], options: Mapping[str, str]
) -> dict[str, Mapping[str, str]]:
    """Give options to the model or the dataset, whichever it is, by the plugin's name."""
    if not options:
        return {}
    spec = str(values.get(kind, AnalyzeConfig.model_fields[kind].default))
    return {registry.locate(kind, spec)[0].entry.name: options}


def _panel(parameter: inspect.Parameter) -> int:
    """Where in the help an option belongs; the context comes first."""
    option = (getattr(parameter.annotation, "__metadata__", None) or (None,))[0]
    return PANELS.index(option.rich_help_panel) if option else -1


_own = inspect.signature(analyze, eval_str=True).parameters.values()
_all = [
    *settings.parameters(AnalyzeConfig, FLAGS, PLACES, TRAINING),
    *(p for p in _own if p.kind is not inspect.Parameter.VAR_KEYWORD),
]
analyze.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in sorted(_all, key=_panel)]
)
app.command(help=EXAMPLES, epilog=EPILOG)(analyze)
