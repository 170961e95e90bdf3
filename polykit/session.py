"""The Python face of polykit: what a notebook calls, and what the command line calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError
from torch import nn

from polykit.api import AnyMetric, Options, Pruner
from polykit.entries import Chosen
from polykit.errors import DataError, RunError, UsageError
from polykit.registry import Registry
from polykit.report.page import write_report as write_page
from polykit.report.reports import draw_all, summary, verdict
from polykit.report.verdict import Verdict
from polykit.runtime.files import write_bytes
from polykit.runtime.samples.data import as_data
from polykit.runtime.store import RunStore, SavedRun, tensor_bytes
from polykit.types import Data
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.analyze.setup import resolve
from polykit.workflows.basis.config import BasisConfig
from polykit.workflows.basis.setup import resolve as resolve_basis
from polykit.workflows.catalogue import WORKFLOWS, saved_config, workflow_of
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.setup import resolve as resolve_clusters
from polykit.workflows.compare.config import CompareConfig
from polykit.workflows.compare.setup import resolve as resolve_comparison
from polykit.workflows.config import SERIAL, SweepConfig
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.setup import resolve as resolve_density
from polykit.workflows.dissect.config import DissectConfig
from polykit.workflows.dissect.setup import resolve as resolve_dissection
from polykit.workflows.driver import carry_out, choose_engine
from polykit.workflows.plugins import load_data as load

_log = logging.getLogger("polykit")

Config = TypeVar("Config", bound=SweepConfig)


class Plan(Protocol):
    """What a run would do: as plain values, or in words, one fact a line."""

    def to_dict(self) -> dict[str, Any]: ...  # noqa: D102

    def lines(self) -> list[str]: ...  # noqa: D102


@dataclass(frozen=True)
class Run:
    """A run directory, to look at. Tables are read when asked for."""

    path: Path

    @cached_property
    def saved(self) -> SavedRun:
        """The whole run in memory; raises RunError if it is unfinished or damaged."""
        return RunStore.open(self.path).load()

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of `run.json`: configuration, plugins, environment, cells, notices."""
        return RunStore.open(self.path).meta

    @property
    def status(self) -> str:
        """complete, failed, interrupted, or running."""
        return str(self.meta["status"])

    @property
    def failures(self) -> dict[str, str]:
        """Cells that failed, with the message."""
        return dict(self.meta.get("failures", {}))

    @property
    def notices(self) -> list[str]:
        """What a reader should know before believing the numbers."""
        return list(self.meta.get("notices", []))

    @property
    def rows(self) -> pd.DataFrame:
        """Tidy results: one row per network, stage or ratio, metric, layer and statistic."""
        return self.saved.rows

    @property
    def units(self) -> pd.DataFrame:
        """Tidy results per unit."""
        return self._table("units")

    @property
    def history(self) -> pd.DataFrame:
        """Training curves."""
        return self._table("history")

    @property
    def epochs(self) -> pd.DataFrame:
        """Headlines after each epoch, of the metrics that were tracked."""
        return self._table("epochs")

    def _table(self, name: str) -> pd.DataFrame:
        tables = self.saved.tables
        if name not in tables:
            raise RunError(
                f"a run of the workflow {self.meta['workflow']} has no table {name!r}; it has "
                f"{', '.join(tables)}"
            )
        return tables[name]

    def summary(self) -> pd.DataFrame:
        """Return the numbers the run was made for.

        Of an analysis: mean and sd over seeds of each metric's headline, by pruner, density and
        stage. Of a laboratory: every effect with interval and p-values, by scenario and dropout.
        """
        return summary(self.saved)

    def verdict(self) -> Verdict:
        """Say in words what the run found."""
        return verdict(self.saved)

    def plot(self) -> dict[str, Figure]:
        """Draw every figure of the report: name → matplotlib figure."""
        return {drawn.name: drawn.figure for drawn in draw_all(self.saved)}

    def report(self) -> Path:
        """Write `report.html` and the figures; return the page."""
        return write_page(self.saved)

    def _repr_html_(self) -> str:
        from html import escape

        lead = escape(self.verdict().answer)
        table = self.summary().to_html(float_format="{:.3g}".format, na_rep="–")
        return f"<p><b>{escape(str(self.path))}</b>: {self.status}. {lead}</p>{table}"


def plan(config: SweepConfig, registry: Registry) -> Plan:
    """Say what a run would do, and what it would cost, without doing it."""
    _, workflow = workflow_of(config)
    return workflow.plan(workflow.resolve(config, registry))  # type: ignore[no-any-return]


def run(
    config: SweepConfig,
    registry: Registry,
    *,
    out: Path | None = None,
    runs_dir: Path = Path("runs"),
    command: str | None = None,
) -> Run:
    """Run a configuration that names all it needs; return the run, whose failures may not be empty.

    The directory is `out`, which must be new or empty, or a new one in `runs_dir` named after the
    configuration. `command` is what the run's record says repeats it, if not the configuration's
    own. Raises PolykitError where nothing can be run.
    """
    _, workflow = workflow_of(config)
    prepared = workflow.resolve(config, registry)
    engine = choose_engine(prepared)
    said = config.command() if command is None else command
    return _carry_out(prepared, _create(prepared, out, runs_dir, said), engine)


def resume(path: Path, registry: Registry, *, engine: str | None = None) -> Run:
    """Go on with an unfinished run, maybe on another engine; cells that are done stay as they are.

    Raises RunError if the run cannot be resumed: it is damaged, or what it needs has changed.
    """
    store = RunStore.open(path)
    config = saved_config(store)
    config = config if engine is None else config.on(engine)
    prepared = WORKFLOWS[store.workflow].resolve(config, registry)
    if prepared.plugins != store.meta["plugins"]:
        raise RunError(
            f"{path} cannot go on: the plugins or their options are not those it began with; "
            f"start anew with: polykit runs rerun {path}"
        )
    return _carry_out(prepared, store, choose_engine(prepared))


def rerun(
    path: Path, registry: Registry, *, out: Path | None = None, runs_dir: Path = Path("runs")
) -> Run:
    """Run a saved run's configuration again, into a new directory."""
    store = RunStore.open(path)
    command = str(store.meta.get("command") or "")
    return run(saved_config(store), registry, out=out, runs_dir=runs_dir, command=command)


def load_data(spec: str, registry: Registry) -> Data:
    """Load a dataset by what one writes on the command line."""
    return load(registry.create("dataset", spec))


def save_truth(data: Data, path: Path) -> None:
    """Write the ground truth of data as safetensors, whole or not at all.

    Raises DataError where the data has none.
    """
    if not data.truth:
        raise DataError(
            f"{data.name} has no ground truth to save; datasets that do: feature-model, toy"
        )
    write_bytes(path, tensor_bytes(data.truth))


def open_run(path: Path) -> Run:
    """Open a run directory; raise RunError if it is not one."""
    return Run(RunStore.open(path).path)


def list_runs(runs_dir: Path) -> list[Run]:
    """Return the runs in a folder, by name."""
    if not runs_dir.is_dir():
        return []
    return [Run(path.parent) for path in sorted(runs_dir.glob("*/run.json"))]


def write_report(path: Path) -> Path:
    """Write a saved run's figures and `report.html`; return the page."""
    return open_run(path).report()


def analyze(
    model: str | nn.Module = "mlp",
    dataset: Any = "digits",
    *,
    pruners: Sequence[str | Pruner] | None = None,
    metrics: Sequence[str | AnyMetric] | None = None,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Train (or take) a network, prune it, measure what that did, and return the run.

    `model` is a name or your own module, which is left as it is and counts as trained unless
    `epochs` is given. `dataset` is a name, a torch Dataset or DataLoader, a pair of tensors, or a
    mapping with train, validation and test. Pruners and metrics are names (`"force:rounds=5"`) or
    instances. `options` are the fields of `AnalyzeConfig`. With `resume`, a run in `out` goes on.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it trains)::

        run = polykit.analyze("mlp", "digits", pruners=["force"], densities=(0.1,), seeds=(0,))
        run.summary()
    """
    own_pruners, pruner_names = _own(pruners)
    own_metrics, metric_names = _own(metrics)
    fields: dict[str, Any] = dict(options)
    fields |= {"pruners": pruner_names} if pruners is not None else {}
    fields |= {"metrics": metric_names} if metrics is not None else {}
    config, data = _configured(AnalyzeConfig, "analyze", model, dataset, fields)
    setup = resolve(
        config,
        registry or Registry.discover(),
        model=None if isinstance(model, str) else model,
        data=data,
        pruners=own_pruners,
        metrics=own_metrics,
    )
    return _begin(setup, out, runs_dir, resume)


def basis(
    model: str | nn.Module = "mlp",
    dataset: Any = "digits",
    *,
    pruners: Sequence[str | Pruner] | None = None,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Draw a network's interaction graphs in several bases, also once pruned; return the run.

    The arguments are those of `analyze`; `options` are the fields of `BasisConfig`.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it trains)::

        run = polykit.basis("mlp", "digits", pruners=["magnitude"], densities=(0.1,))
        run.verdict()
    """
    own, names = _own(pruners)
    fields = {**options, "pruners": names} if pruners is not None else options
    config, data = _configured(BasisConfig, "basis", model, dataset, fields)
    network = None if isinstance(model, str) else model
    known = registry or Registry.discover()
    setup = resolve_basis(config, known, model=network, data=data, pruners=own)
    return _begin(setup, out, runs_dir, resume)


def clusters(
    model: str | nn.Module = "convnet",
    dataset: Any = "digits",
    *,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Find units whose strongest pictures fall into several groups; return the run.

    `model` is a name or your own module, which is left as it is and counts as trained unless
    `epochs` is given. `dataset` is a name, a torch Dataset or DataLoader, a pair of tensors, or a
    mapping with train, validation and test. `options` are the fields of `ClustersConfig`. With
    `resume`, a run in `out` goes on.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it trains)::

        run = polykit.clusters("convnet", "digits", layers=("conv3",), units=("0-7",))
        run.summary()
    """
    config, data = _configured(ClustersConfig, "clusters", model, dataset, options)
    own = None if isinstance(model, str) else model
    setup = resolve_clusters(config, registry or Registry.discover(), model=own, data=data)
    return _begin(setup, out, runs_dir, resume)


def density(
    model: str = "lenet",
    dataset: Any = "digits",
    *,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Find how many weights networks of several widths need; return the run.

    `model` is the name of a plugin with the options scale and init, since the study varies them.
    `dataset` is a name, a torch Dataset or DataLoader, a pair of tensors, or a mapping with train,
    validation and test. `options` are the fields of `DensityConfig`. With `resume`, a run in `out`
    goes on.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it trains)::

        run = polykit.density("lenet", "digits", scales=(0.5, 1.0), pruners=("magnitude", "snip"))
        run.summary()
    """
    config, data = _configured(DensityConfig, "density", model, dataset, options)
    setup = resolve_density(config, registry or Registry.discover(), data=data)
    return _begin(setup, out, runs_dir, resume)


def dissect(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    dataset: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Cut units of a run of `clusters` apart, each cluster's part beside controls; return the run.

    `model` and `dataset` are the caller's own, where `run` was made with such. It goes to `out`, or
    to a new directory in `dissections` below `run`; with `resume`, a run in `out` goes on.
    `options` are the fields of `DissectConfig`.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it needs a run of `clusters`)::

        found = polykit.dissect("runs/NAME", units=("conv3:5",), pruners=("cs", "force"))
        found.verdict()
    """
    config = _built(DissectConfig, "dissect", {**options, "run": str(run)})
    data = None if dataset is None else as_data(dataset, name=type(dataset).__name__)
    known = registry or Registry.discover()
    setup = resolve_dissection(config, known, model=model, data=data)
    return _begin(setup, out, Path(run) / "dissections", resume)


def compare(
    first: str | Path | nn.Module,
    *others: str | Path | nn.Module,
    dataset: Any = None,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Compare the first network with others: what lies between them, and how alike they are.

    A network is a module of your own, which is left as it is, or the text that the command line
    takes: `"RUN:SEED"`, `"RUN:CELL"`, a file of weights. `dataset` is a name, a torch Dataset or
    DataLoader, a pair of tensors, or a mapping with train, validation and test; by default that of
    the first network's run. `options` are the fields of `CompareConfig`. With `resume`, a run in
    `out` goes on.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it needs a run of `analyze`)::

        run = polykit.compare("runs/NAME:0", "runs/NAME:1", pull=(0.01, 0.1))
        run.verdict()
    """
    names: list[str] = []
    own: dict[str, nn.Module] = {}
    for network in (first, *others):
        name = str(network)
        if isinstance(network, nn.Module):
            kind = type(network).__name__
            name = kind if kind not in own else f"{kind}-{len(own) + 1}"
            own[name] = network
        names.append(name)
    fields = {**options, "a": names[0], "others": tuple(names[1:])}
    data = None
    if isinstance(dataset, str):
        fields["dataset"] = dataset
    elif dataset is not None:
        data = as_data(dataset, name=type(dataset).__name__)
    config = _built(CompareConfig, "compare", fields)
    known = registry or Registry.discover()
    setup = resolve_comparison(config, known, models=own, data=data)
    return _begin(setup, out, runs_dir, resume)


def _configured(
    config: type[Config], name: str, model: str | nn.Module, dataset: Any, options: dict[str, Any]
) -> tuple[Config, Data | None]:
    """Make the configuration; a caller's own model and data are named after their class."""
    fields = dict(options)
    fields["model"] = model if isinstance(model, str) else type(model).__name__
    fields["dataset"] = dataset if isinstance(dataset, str) else type(dataset).__name__
    data = None if isinstance(dataset, str) else as_data(dataset, name=fields["dataset"])
    return _built(config, name, fields), data


def _built(config: type[Config], name: str, fields: Mapping[str, Any]) -> Config:
    """Make the configuration, or say what is wrong with it."""
    try:
        return config(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise UsageError(f"{name}: {problems}") from None


def _begin(prepared: Any, out: str | Path | None, runs_dir: str | Path, resume: bool) -> Run:
    """Run what is prepared in a new directory, or go on with the run of its kind in `out`."""
    engine = choose_engine(prepared)
    place = None if out is None else Path(out)
    if resume and place is not None and (place / "run.json").is_file():
        store = RunStore.open(place)
        began = saved_config(store).on(SERIAL), store.meta["plugins"]
        if began != (prepared.config.on(SERIAL), prepared.plugins):
            raise RunError(f"{place} holds a run of another configuration; choose another `out`")
    else:
        store = _create(prepared, place, Path(runs_dir), prepared.config.command())
    return _carry_out(prepared, store, engine)


def _own(plugins: Sequence[Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Name a caller's own instances after their class; keep names as they are."""
    own: dict[str, Any] = {}
    names: list[str] = []
    for plugin in plugins or ():
        if isinstance(plugin, Options):
            name = type(plugin).__name__.lower()
            name = name if name not in own else f"{name}-{len(own) + 1}"
            own[name] = plugin
            names.append(name)
        else:
            names.append(plugin)
    return own, tuple(names)


def _create(prepared: Any, out: Path | None, runs_dir: Path, command: str) -> RunStore:
    name, workflow = workflow_of(prepared.config)
    meta = workflow.describe(prepared, command)
    if out is not None:
        return RunStore.create(out, meta)
    parts = ["".join(c if c.isalnum() else "_" for c in p)[:24].strip("_") for p in prepared.about]
    stem = "-".join([name, *parts, prepared.config.fingerprint(prepared.plugins)])
    return RunStore.create_in(runs_dir, stem, meta)


def _carry_out(prepared: Any, store: RunStore, engine: Chosen) -> Run:
    failures = carry_out(prepared, store, engine.instance)
    if failures:
        _log.warning("%d of the cells failed: %s", len(failures), ", ".join(failures))
    return Run(store.path)
