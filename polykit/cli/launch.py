"""What the commands share that run one workflow from options of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

WITH_RESUME = ("resume", "engine", "as_json", "report", "runs_dir")
"""Options that go together with --resume."""


def epilog(layout: settings.Layout) -> str:
    """What the help says at its end: the other ways to set an option."""
    return (
        "Each option named after a field of the configuration can also be set in the file, by the "
        f"field's name, or as {layout.environment}FIELD (several values: separated by blanks). "
        "What is written here goes before the environment, the environment before the file."
    )


def launch(
    ctx: typer.Context,
    config: type[SweepConfig],
    fields: Mapping[str, Any],
    *,
    weights: str | None = None,
    data_root: Path | None = None,
    download: bool = False,
    file: Path | None,
    dry_run: bool,
    resume: Path | None,
    out: Path | None,
    runs_dir: Path,
    as_json: bool,
    report: bool,
) -> None:
    """Read the options into a `config`, then show its plan, or carry it out and print the result.

    Precedence: command line, environment, `file`, defaults. With `resume` a run goes on instead,
    maybe on another engine.
    """
    from polykit import session

    state, origins = state_of(ctx), settings.origins(ctx)
    finish = partial(carry_out, state, as_json=as_json, report=report)
    if resume is not None:
        used = [how for name, how in origins.items() if name not in WITH_RESUME and how[0] == "-"]
        if used:
            raise UsageError(
                f"--resume goes on with the run's own configuration, but for --engine; drop "
                f"{', '.join(used)}"
            )
        engine = fields.get("engine")
        finish(lambda plugins: session.resume(resume, plugins, engine=engine))
        return
    values = settings.read_file(file, config) if file else {}
    in_file = {name: f"{name} in {file}:" for name in values}
    given = {name: value for name, value in fields.items() if name in origins}
    options = settings.read_options(given.pop("options", ()))
    values = settings.layer(values, given)
    of_model = {"weights": weights} if weights else {}
    of_dataset = {"root": str(data_root)} if data_root else {}
    of_dataset |= {"download": "true"} if download else {}
    registry = state.working_registry()
    for table in (
        _by_name(registry, config, "model", values, of_model),
        _by_name(registry, config, "dataset", values, of_dataset),
        options,
    ):
        values = settings.layer(values, {"options": table} if table else {})
    chosen = settings.build(config, values, in_file | origins)
    if not dry_run:
        finish(lambda plugins: session.run(chosen, plugins, out=out, runs_dir=runs_dir))
    elif as_json:
        print_json(session.plan(chosen, registry).to_dict())
    else:
        say("\n".join(session.plan(chosen, registry).lines()))


def command_of(wanted: type[SweepConfig], layout: settings.Layout) -> Callable[..., None]:
    """Make the command that launches a `wanted` on any model and dataset, an option a field."""

    def command(
        ctx: typer.Context,
        weights: WeightsOption = None,
        data_root: DataRootOption = None,
        download: DownloadOption = False,
        config: ConfigOption = None,
        dry_run: DryRunOption = False,
        resume: ResumeOption = None,
        out: OutOption = None,
        runs_dir: RunsDirOption = RUNS,
        as_json: JsonOption = False,
        report: ReportOption = True,
        **fields: Any,
    ) -> None:
        launch(
            ctx,
            wanted,
            fields,
            weights=weights,
            data_root=data_root,
            download=download,
            file=config,
            dry_run=dry_run,
            resume=resume,
            out=out,
            runs_dir=runs_dir,
            as_json=as_json,
            report=report,
        )

    settings.add_fields(command, wanted, layout)
    return command


def launch_below(
    ctx: typer.Context,
    config: type[SweepConfig],
    fields: Mapping[str, Any],
    *,
    run: str | None,
    folder: str,
    resume: Path | None,
    runs_dir: Path,
    **how: Any,
) -> None:
    """Launch what looks at a run of clusters, by default into a `folder` of that run.

    The other arguments are those of `launch`.
    """
    place = runs_dir
    if run is not None:
        path = locate(run, runs_dir)
        fields, place = {**fields, "run": str(path)}, path / folder
    elif resume is None:
        raise UsageError(
            f"name a run of clusters, e.g. polykit {ctx.info_name} runs/NAME --unit conv3:5"
        )
    launch(ctx, config, fields, resume=resume, runs_dir=place, **how)


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
