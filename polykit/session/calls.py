"""One function per workflow: it takes names, or objects of your own, and returns the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import nn

from polykit.api import AnyMetric, Options, Pruner
from polykit.errors import UsageError
from polykit.registry import Registry
from polykit.runtime.samples.data import as_data
from polykit.session.runs import Run
from polykit.session.sweeps import begin
from polykit.types import Data
from polykit.workflows.analyze.config import AnalyzeConfig
from polykit.workflows.analyze.setup import resolve
from polykit.workflows.basis.config import BasisConfig
from polykit.workflows.basis.setup import resolve as resolve_basis
from polykit.workflows.clusters.config import ClustersConfig
from polykit.workflows.clusters.setup import resolve as resolve_clusters
from polykit.workflows.compare.config import CompareConfig
from polykit.workflows.compare.setup import resolve as resolve_comparison
from polykit.workflows.config import SweepConfig
from polykit.workflows.density.config import DensityConfig
from polykit.workflows.density.setup import resolve as resolve_density
from polykit.workflows.dissect.config import DissectConfig
from polykit.workflows.dissect.setup import resolve as resolve_dissection
from polykit.workflows.visualize.config import VisualizeConfig
from polykit.workflows.visualize.setup import resolve as resolve_visualization

Config = TypeVar("Config", bound=SweepConfig)


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
    return begin(setup, out, runs_dir, resume)


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
    return begin(setup, out, runs_dir, resume)


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
    return begin(setup, out, runs_dir, resume)


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
    return begin(setup, out, runs_dir, resume)


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
    known = registry or Registry.discover()
    setup = resolve_dissection(config, known, model=model, data=_own_data(dataset))
    return begin(setup, out, Path(run) / "dissections", resume)


def visualize(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    dataset: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    **options: Any,
) -> Run:
    """Show what units of a run of `clusters` look for, and where they find it; return the run.

    `model` and `dataset` are the caller's own, where `run` was made with such. It goes to `out`, or
    to a new directory in `visualizations` below `run`; with `resume`, a run in `out` goes on.
    `options` are the fields of `VisualizeConfig`.

    Raises PolykitError where nothing can be run; cells that fail alone are in `Run.failures`.

    Example (not run here, since it needs a run of `clusters`)::

        shown = polykit.visualize("runs/NAME", units=("conv3:5",), dissection="NAME")
        shown.plot()
    """
    config = _built(VisualizeConfig, "visualize", {**options, "run": str(run)})
    known = registry or Registry.discover()
    setup = resolve_visualization(config, known, model=model, data=_own_data(dataset))
    return begin(setup, out, Path(run) / "visualizations", resume)


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
    if isinstance(dataset, str):
        fields["dataset"] = dataset
    config = _built(CompareConfig, "compare", fields)
    known = registry or Registry.discover()
    setup = resolve_comparison(config, known, models=own, data=_own_data(dataset))
    return begin(setup, out, runs_dir, resume)


def _configured(
    config: type[Config], name: str, model: str | nn.Module, dataset: Any, options: dict[str, Any]
) -> tuple[Config, Data | None]:
    """Make the configuration; a caller's own model and data are named after their class."""
    fields = dict(options)
    fields["model"] = model if isinstance(model, str) else type(model).__name__
    fields["dataset"] = dataset if isinstance(dataset, str) else type(dataset).__name__
    data = None if isinstance(dataset, str) else as_data(dataset, name=fields["dataset"])
    return _built(config, name, fields), data


def _own_data(dataset: Any) -> Data | None:
    """Take a caller's own data, named after its class; None for a name, or where none is given."""
    if dataset is None or isinstance(dataset, str):
        return None
    return as_data(dataset, name=type(dataset).__name__)


def _built(config: type[Config], name: str, fields: Mapping[str, Any]) -> Config:
    """Make the configuration, or say what is wrong with it."""
    try:
        return config(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise UsageError(f"{name}: {problems}") from None


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
