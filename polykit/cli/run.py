"""`polykit run`: a whole study from one file."""

from __future__ import annotations

import shlex
import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

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
    TrackersOption,
)
from polykit.errors import UsageError, did_you_mean
from polykit.workflows.config import SweepConfig
from polykit.workflows.configs import CONFIGS

EXAMPLES = """Run a recipe: a TOML file with a workflow and its options.

\b
  polykit run examples/thesis/n2.toml
  polykit run examples/thesis/n2.toml --set seeds=[0,1] --set epochs=10
  polykit run examples/thesis/all.toml --dry-run
  polykit run --resume runs/NAME
"""
EPILOG = f"The recipe's key `workflow` is one of {', '.join(CONFIGS)}; the others are its options."

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(help=EXAMPLES, epilog=EPILOG)
def run(
    ctx: typer.Context,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.toml]", help="The recipe.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change an option of the recipe; the value as in TOML. Repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan.", rich_help_panel=PANEL)
    ] = False,
    resume: ResumeOption = None,
    out: OutOption = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
    report: ReportOption = True,
    trackers: TrackersOption = None,
) -> None:
    """See EXAMPLES, which is what `--help` shows."""
    from polykit import session

    state = state_of(ctx)
    finish = partial(carry_out, state, as_json=as_json, report=report, trackers=trackers or ())
    if resume is not None:
        changed = dict(map(_change, changes or ()))
        engine = changed.pop("engine", None)
        if recipe is not None or changed or out is not None or dry_run:
            raise UsageError(
                "--resume goes on with the run's own recipe, but for --set engine=NAME; drop the "
                "file, other --set, --out, --dry-run"
            )
        finish(lambda plugins: session.resume(resume, plugins, engine=engine))
        return
    if recipe is None:
        raise UsageError("name a recipe, e.g. polykit run examples/thesis/n2.toml")
    config = read_recipe(recipe, changes or ())
    if dry_run:
        plan = session.plan(config, state.working_registry())
        print_json(plan.to_dict()) if as_json else say("\n".join(plan.lines()))
        return
    words = ["polykit", "run", str(recipe), *(w for c in changes or () for w in ("--set", c))]
    command = shlex.join(words)
    finish(
        lambda plugins: session.run(config, plugins, out=out, runs_dir=runs_dir, command=command)
    )


def read_recipe(path: Path, changes: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    """Read a recipe; raise UsageError that names the file, the key and the remedy."""
    values = settings.read_toml(path, "recipe")
    name = values.pop("workflow", None)
    if not isinstance(name, str) or name not in CONFIGS:
        hint = did_you_mean(str(name), CONFIGS) if name else ""
        raise UsageError(
            f"the recipe {path} {f'has the unknown workflow {name!r}' if name else 'names none'}."
            f'{hint} Write workflow = "…", one of {", ".join(CONFIGS)}'
        )
    config = CONFIGS[name]
    settings.check_keys(path, values, config)
    origins = {key: f"{key} in {path}:" for key in config.model_fields}
    for text in changes:
        key, value = _change(text)
        if key not in config.model_fields:
            hint = did_you_mean(key, config.model_fields)
            raise UsageError(f"--set {text}: the workflow {name} has no option {key!r}.{hint}")
        origins[key] = f"--set {text}:"
        values[key] = value
    return settings.build(config, values, origins)


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise UsageError(f"--set {text!r} is not understood; write KEY=VALUE, e.g. seeds=[0,1]")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value  # a text needs no quotes here
