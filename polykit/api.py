"""All that a plugin author imports.

A plugin package has an entry point in the group `polykit` that names a torch-free module; that
module's hook implementations return `Entry` records, and the records name the classes by string:

    from polykit.api import Entry, hookimpl

    @hookimpl
    def polykit_entries():
        return [Entry("metric", "kurtosis", "my_package.kurtosis:Kurtosis", "How peaked …")]

Importing this module imports no torch, so listing plugins stays quick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, get_args

import pluggy
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from polykit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import torch
    from torch import nn

    from polykit.types import (
        At,
        Batch,
        Batches,
        Candidates,
        Column,
        Data,
        FeatureSpace,
        Mask,
        Measurement,
        Objective,
        Scores,
        Smaller,
        Subject,
    )

__all__ = [
    "KINDS",
    "TRACKERS_VARIABLE",
    "AnyMetric",
    "Dataset",
    "Engine",
    "Entry",
    "FeatureSpacePlugin",
    "Field",
    "IntList",
    "Kind",
    "Metric",
    "Model",
    "Options",
    "Pruner",
    "SaliencyPruner",
    "StreamingMetric",
    "StructuralPruner",
    "Train",
    "hookimpl",
]

hookimpl = pluggy.HookimplMarker("polykit")
"""Marks a function of a plugin module as the implementation of the hook of the same name."""

TRACKERS_VARIABLE = "POLYKIT_TRACKERS"
"""Environment variable with the names of the trackers that follow runs, commas between.

The command line's `--tracker` sets it; processes that work on a run inherit it.
"""

Kind = Literal["pruner", "metric", "dataset", "model", "feature-space", "engine", "command"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """One plugin, described without importing it.

    `target` is `package.module:attribute`, imported when the plugin is asked for by name. `source`
    names the paper, section and equation. `requires` lists modules that must be importable and
    are not among polykit's own dependencies.
    """

    kind: Kind
    name: str
    target: str
    summary: str
    source: str = ""
    requires: tuple[str, ...] = ()


def _split_list(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.replace("x", ",").split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


IntList = Annotated[tuple[int, ...], BeforeValidator(_split_list)]
"""A list of integers; written `64,64` or `64x64` on the command line."""


class Options(BaseModel):
    """A plugin's options: typed fields, each with a default, a bound and a one-line description.

    From these come the command line flags, `polykit plugins info`, the TOML table and the record
    in the run. Instances are immutable. `argument` names the field that `NAME:VALUE` fills.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    argument: ClassVar[str] = ""


class Train(Protocol):
    """Trains copies of networks under a mask, for methods that train while they prune."""

    def __call__(self, model: nn.Module, mask: Mask, /, *, epochs: int | None = None) -> nn.Module:
        """Return a masked copy trained for so many epochs, by default as many as the user asked."""
        ...


class Pruner(Options, ABC):
    """Decides which candidate elements of a network are kept."""

    chooses_density: ClassVar[bool] = False
    """True for a method that finds its own density when none is asked for, which is density 1."""

    minimises: ClassVar[bool] = False
    """True for a method that makes the objective small, instead of ranking parts by its slope."""

    trains: ClassVar[bool] = False
    """True for a method that trains between rounds; its mask is for weights yet to be trained."""

    def prepare(
        self,
        model: nn.Module,
        *,
        candidates: Candidates,
        generator: torch.Generator,
        train: Train | None = None,
    ) -> nn.Module:
        """Return the network to prune: `model` itself, or a copy with other weights.

        A method that rewinds weights or draws them anew says so here. The mask is sought in, and
        put on, what comes back. `model` must be left as it was.
        """
        return model

    @abstractmethod
    def prune(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        density: float,
        candidates: Candidates,
        generator: torch.Generator,
        mask: Mask | None = None,
        train: Train | None = None,
    ) -> Mask:
        """Return a mask over `candidates` whose density is `density` to ±1 element.

        `model` is in evaluation mode and must be left as it was. `batches` are the samples that
        may be looked at. `generator` is the only source of randomness. `mask` is where to start
        (everything kept, if None). `train(model, mask)` gives a trained masked copy, for methods
        that train between rounds; None where training is not possible.
        """


class SaliencyPruner(Pruner):
    """A pruner that scores every element and keeps the best: implement `scores`, inherit the rest.

    The rest is granularity and competition (by `Candidates` and `Scores`) and the schedule below.
    """

    schedule: Literal["oneshot", "linear", "exponential"] = Field(
        "oneshot", description="how the density falls: at once, or over rounds"
    )
    rounds: int = Field(10, ge=1, le=10_000, description="rounds of an iterative schedule")
    resurrect: bool = Field(True, description="let removed elements come back in a later round")

    @abstractmethod
    def scores(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        candidates: Candidates,
        mask: Mask,
        generator: torch.Generator,
    ) -> Scores:
        """Return what each element is worth in the network masked by `mask`; higher is better.

        Removed elements are scored too: by what they would be worth if they were put back.
        """

    def densities(self, density: float, start: float = 1.0) -> list[float]:
        """Return the density after each round, from `start` down to exactly `density`.

        `exponential` is FORCE's k_t = exp((t/T)·ln k + (1 − t/T)·ln N) as a share of N (de Jorge
        et al. 2021, eq. 8), cut to the nearest element; `linear` removes equally many each round.
        """
        if self.schedule == "oneshot":
            return [density]
        steps = [t / self.rounds for t in range(1, self.rounds)]
        if self.schedule == "linear":
            path = [start + t * (density - start) for t in steps]
        else:
            path = [start ** (1 - t) * density**t for t in steps]
        return [*path, density]

    def prune(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        density: float,
        candidates: Candidates,
        generator: torch.Generator,
        mask: Mask | None = None,
        train: Train | None = None,
    ) -> Mask:
        """Score and cut, round by round; without `resurrect` what is gone stays gone.

        Raises UsageError where that cannot reach `density`, since `mask` keeps less already.
        """
        current = candidates.full() if mask is None else mask
        slack = max(candidates.element_size(name) for name in candidates.shapes)
        if not self.resurrect and current.kept + slack < density * current.total:
            raise UsageError(
                f"density {density:g} is above the {current.density:g} that the mask to start from "
                f"keeps; take a lower density, or resurrect=true"
            )
        for target in self.densities(density, current.density):
            scores = self.scores(
                model,
                objective,
                batches,
                candidates=candidates,
                mask=current,
                generator=generator,
            )
            current = (scores if self.resurrect else scores.only(current)).keep(target)
        return current


class StructuralPruner(Options, ABC):
    """A pruner that removes whole units and gives back a smaller network instead of a mask."""

    @abstractmethod
    def shrink(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        *,
        density: float,
        candidates: Candidates,
        generator: torch.Generator,
    ) -> Smaller:
        """Return a smaller copy of `model`, which is in evaluation mode and left as it was.

        `candidates` name the weights whose units may go, and what competes; the granularity is
        always the unit. The other arguments are those of `Pruner.prune`.
        """


class AnyMetric(Options):
    """What both kinds of metric declare."""

    columns: ClassVar[dict[str, Column]] = {}
    """Every statistic the metric reports, with its unit of measure and range."""

    headline: ClassVar[str] = ""
    """The statistic that figures and verdicts show; none if empty."""

    bases: ClassVar[Mapping[str, str]] = {}
    """Statistics that are one quantity in several bases, which a report sets side by side."""

    def check(self, subject: Subject) -> None:
        """Raise ModelError or DataError for a network or data that cannot be measured at all.

        Asked before anything is trained, of the untrained network on the CPU; by default nothing.
        """


class Metric(AnyMetric, ABC):
    """Measures a network without looking at samples one by one."""

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Return the measurement of `subject`, which must be left as it was."""


class StreamingMetric(AnyMetric, ABC):
    """Measures over samples, chunk by chunk: one pass over the data serves all metrics of a run.

    Chunks come in any size, so the result must not depend on it, and what `update` returns must
    not grow with the number of samples.
    """

    @property
    def reads(self) -> tuple[At, ...]:
        """Where `Batch.activations` are read for this metric: any of pre, post, input."""
        return ()

    @property
    def needs_outputs(self) -> bool:
        """Whether `Batch.outputs` is needed; if no metric does, the pass may stop early."""
        return False

    @abstractmethod
    def update(self, subject: Subject, state: Any, batch: Batch) -> Any:
        """Return the state after one more chunk; `state` is None at the first."""

    @abstractmethod
    def finish(self, subject: Subject, state: Any) -> Measurement:
        """Return the measurement once all chunks are in."""


class Dataset(Options, ABC):
    """Gives train, validation and test data."""

    @abstractmethod
    def load(self) -> Data:
        """Read or make the data, the same each time. Raises DataError where it cannot."""

    def restore(self, truth: Mapping[str, torch.Tensor]) -> Data:
        """Return what `load` gave, from the `Data.truth` it gave; by default by loading again."""
        return self.load()


class Model(Options, ABC):
    """Gives a network for a dataset's shapes."""

    @property
    def pretrained(self) -> bool:
        """Whether the network comes with trained weights."""
        return False

    def redraw(self, network: nn.Module) -> None:
        """Draw the weights of a network that `build` made anew, whatever its widths are now.

        By default each module's own `reset_parameters` does it; ModelError where one has none.
        """
        for name, module in network.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise ModelError(
                    f"{name or 'the network'} ({type(module).__name__}) cannot be drawn anew; give "
                    f"it a reset_parameters(), or the model plugin a redraw()"
                )

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Return a new network; random numbers come from torch's global generator, seeded before.

        Raises ModelError where the network cannot take such inputs or give such outputs.
        """


class FeatureSpacePlugin(Options, ABC):
    """Builds a feature space for a network and its data."""

    @property
    def depends_on_model(self) -> bool:
        """Whether the features are learned from the network, so that each network has its own."""
        return False

    @abstractmethod
    def build(self, subject: Subject) -> FeatureSpace:
        """Return the feature space, or raise DataError where the data has none of this kind."""


class Engine(Options, ABC):
    """Runs the cells of a sweep, through the standard `concurrent.futures` interface.

    What is submitted is a function of a module and one value of plain data; what comes back is
    plain data, too. So it may be carried out in other processes, or on other machines that see
    the run's directory.
    """

    shares_objects: ClassVar[bool] = False
    """True where all work is done in the process that submits it, so that a caller's own models,
    data and plugin instances can serve."""

    @abstractmethod
    def executor(self, *, threads: int, device: str) -> Executor:
        """Return a new executor; the workflow uses it as a `with` block.

        Each piece of work computes with `threads` CPU threads, on `device`: cpu, cuda, cuda:N or
        mps. Leaving the block by an error should end what is running.
        """
