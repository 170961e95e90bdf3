"""What the commands share that run one workflow from options of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
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
    TrackersOption,
    locate,
)
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.workflows.config import SweepConfig

WHAT = "What to run"

WeightsOption = Annotated[
    str | None,
    typer.Option(help="The model's option `weights`.", metavar="NAME", rich_help_panel=WHAT),
]
DataRootOption = Annotated[
    Path | None, typer.Option(help="The dataset's option `root`.", rich_help_panel=WHAT)
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="The dataset's `download`.", rich_help_panel=WHAT)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", help="Read the configuration.", rich_help_panel=PANEL),
]
ClustersArgument = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run of clusters: its name or directory.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its cost.", rich_help_panel=PANEL)
]

WITH_RESUME = ("resume", "engine", "as_json", "report", "runs_dir", "trackers")
"""Options that go together with --resume."""


def epilog(layout: settings.Layout) -> str:
    """What the help says at its end: the other ways to set an option."""
    return (
        "Each option named after a field of the configuration can also be set in the file, by the "
        f"field's name, or as {layout.environment}FIELD (several values: separated by blanks). "
        "What is written here goes before the environment, the environment before the file."
    )


@dataclass(frozen=True)
class Call:
    """How to run: what every command takes that launches a workflow. Each field is an option."""

    config: ConfigOption = None
    dry_run: DryRunOption = False
    resume: ResumeOption = None
    out: OutOption = None
    runs_dir: RunsDirOption = RUNS
    as_json: JsonOption = False
    report: ReportOption = True
    trackers: TrackersOption = None


def command_of(
    config: type[SweepConfig], layout: settings.Layout, body: Callable[..., None]
) -> Callable[..., None]:
    """Make a command: its options are those of `body`, of every call, and the config's fields.

    `body` takes the context, a `Call`, what it asks for itself, and the fields, as text.
    """
    call = parameters_of(Call)
    own = parameters_of(body)[2:-1]

    def command(ctx: typer.Context, **given: Any) -> None:
        how = Call(**{p.name: given.pop(p.name) for p in call})
        asked = {p.name: given.pop(p.name) for p in own}
        body(ctx, how, **asked, fields=given)

    settings.set_options(command, [*own, *call], config, layout)
    return command


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters, with annotations as objects."""
    return list(inspect.signature(function, eval_str=True).parameters.values())


def launch_any(config: type[SweepConfig]) -> Callable[..., None]:
    """Make the body of a command that runs `config` on any model and dataset."""

    def body(
        ctx: typer.Context,
        call: Call,
        weights: WeightsOption = None,
        data_root: DataRootOption = None,
        download: DownloadOption = False,
        *,
        fields: Mapping[str, Any],
    ) -> None:
        of_dataset = dataset_options(data_root, download=download)
        launch(ctx, call, config, fields, {"weights": weights} if weights else {}, of_dataset)

    return body


def dataset_options(root: Path | None, *, download: bool) -> dict[str, str]:
    """Return the options of the dataset that have flags of their own."""
    options = {"root": str(root)} if root else {}
    return options | ({"download": "true"} if download else {})


def launch(
    ctx: typer.Context,
    call: Call,
    config: type[SweepConfig],
    fields: Mapping[str, Any],
    of_model: Mapping[str, str] = MappingProxyType({}),
    of_dataset: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Read the options into a `config`, then show its plan, or carry it out and print the result.

    Precedence: command line, environment, file, defaults. With --resume a run goes on instead,
    maybe on another engine. `of_model` and `of_dataset` are options of whichever they are.
    """
    from polykit import session

    state, origins = state_of(ctx), settings.origins(ctx)
    finish = partial(
        carry_out,
        state,
        as_json=call.as_json,
        report=call.report,
        trackers=call.trackers or (),
    )
    if call.resume is not None:
        _refuse_with_resume(origins)
        going, engine = call.resume, fields.get("engine")
        finish(lambda plugins: session.resume(going, plugins, engine=engine))
        return
    file = call.config
    values = settings.read_file(file, config) if file else {}
    in_file = {name: f"{name} in {file}:" for name in values}
    given = {name: value for name, value in fields.items() if name in origins}
    options = settings.read_options(given.pop("options", ()))
    values = settings.layer(values, given)
    registry = state.working_registry()
    for table in (
        _by_name(registry, config, "model", values, of_model),
        _by_name(registry, config, "dataset", values, of_dataset),
        options,
    ):
        values = settings.layer(values, {"options": table} if table else {})
    chosen = settings.build(config, values, in_file | origins)
    if not call.dry_run:
        finish(lambda plugins: session.run(chosen, plugins, out=call.out, runs_dir=call.runs_dir))
    elif call.as_json:
        print_json(session.plan(chosen, registry).to_dict())
    else:
        say("\n".join(session.plan(chosen, registry).lines()))


def launch_below(
    ctx: typer.Context,
    call: Call,
    config: type[SweepConfig],
    fields: Mapping[str, Any],
    run: str | None,
    folder: str,
) -> None:
    """Launch what looks at a `run` of clusters, by default into a `folder` of that run."""
    if run is not None:
        path = locate(run, call.runs_dir)
        fields, call = {**fields, "run": str(path)}, replace(call, runs_dir=path / folder)
    elif call.resume is None:
        raise UsageError(
            f"name a run of clusters, e.g. polykit {ctx.info_name} runs/NAME --unit conv3:5"
        )
    launch(ctx, call, config, fields)


def _refuse_with_resume(origins: Mapping[str, str]) -> None:
    """Raise UsageError for options that a run which goes on cannot take."""
    used = [how for name, how in origins.items() if name not in WITH_RESUME and how[0] == "-"]
    if used:
        raise UsageError(
            f"--resume goes on with the run's own configuration, but for --engine; drop "
            f"{', '.join(used)}"
        )


def _by_name(
    registry: Registry,
    config: type[SweepConfig],
    kind: Kind,
    values: Mapping[str, Any],
    options: Mapping[str, str],
) -> dict[str, Mapping[str, str]]:
    """Give options to the model or the dataset, whichever it is, by the plugin's name."""
    if not options:
        return {}
    spec = str(values.get(kind, config.model_fields[kind].default))
    return {registry.locate(kind, spec)[0].entry.name: options}
