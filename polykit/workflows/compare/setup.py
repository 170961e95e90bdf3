"""From names to objects: the networks to compare, and the data to compare them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from polykit.entries import Chosen
from polykit.errors import ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.devices import pick_device
from polykit.runtime.pairs.matching import first_difference
from polykit.runtime.pairs.symmetry import Symmetries, symmetries
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.trace import trace
from polykit.types import Data, Subject, Trace
from polykit.workflows.compare import saved
from polykit.workflows.compare.config import CompareConfig
from polykit.workflows.measuring import check
from polykit.workflows.networks import Network, digest, find_data, find_network
from polykit.workflows.plugins import Spaces, check_options_used, choose, metric_record, slug


@dataclass(frozen=True)
class Compared:
    """A network in evaluation mode, by the name it has in every table; how its like is made."""

    label: str
    model: nn.Module
    trace: Trace
    network: Network

    @property
    def record(self) -> dict[str, Any]:
        """What the run keeps."""
        made = {"label": self.label, "name": self.label, "weights": digest(self.model)}
        return {**made, "distribution": self.network.record["distribution"]}

    def parameters(self) -> dict[str, Tensor]:
        """Its parameters by name, which must not be changed."""
        return {name: value.detach() for name, value in self.model.named_parameters()}


@dataclass(frozen=True)
class Pair:
    """The comparison of the first network with another."""

    other: str

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        return slug(f"with-{self.other}")

    @property
    def needs(self) -> tuple[str, ...]:
        """No other cell."""
        return ()


@dataclass(frozen=True)
class Pull:
    """The first network trained on, pulled to another with one strength (0: the control)."""

    other: str
    strength: float

    @property
    def name(self) -> str:
        """A stable name that serves as a directory."""
        return slug(f"with-{self.other}-pull-{self.strength:g}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The comparison that matched the units."""
        return (Pair(self.other).name,)


@dataclass
class Setup:
    """A resolved `CompareConfig`."""

    config: CompareConfig
    registry: Registry
    data: Data
    first: Compared
    others: Mapping[str, Compared]
    metrics: Mapping[str, Chosen]
    layers: tuple[str, ...]
    device: torch.device
    plugins: dict[str, Any]
    spaces: Spaces
    remarks: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """One cell per other network."""
        return [Pair(label) for label in self.others]

    @property
    def pulls(self) -> list[Pull]:
        """One cell per other network and strength, the control first."""
        strengths = (0.0, *self.config.pull) if self.config.pull else ()
        return [Pull(label, strength) for label in self.others for strength in strengths]

    @property
    def cells(self) -> list[Pair | Pull]:
        """All cells: the comparisons, then the pulls."""
        return [*self.pairs, *self.pulls]

    @property
    def about(self) -> tuple[str, ...]:
        """What a run's name should tell."""
        return self.first.label, *list(self.others)[:1]

    @property
    def threads(self) -> int:
        """CPU threads to compute with."""
        return self.config.threads or torch.get_num_threads()

    @cached_property
    def symmetries(self) -> Symmetries:
        """Which units may change places: the same in all networks, as they have one shape."""
        x, _ = next(self.data.test.batches(16))
        return symmetries(self.first.model, x)

    def subject(self, model: nn.Module) -> Subject:
        """A network of the first one's shape, ready to be measured."""
        return Subject(
            model=model,
            trace=self.first.trace,
            layers=self.layers,
            data=self.data,
            device=self.device,
            batch_size=self.config.eval_batch_size,
            spaces=self.spaces,
        )

    def fresh(self) -> Compared:
        """Return a network like the first one with random weights: the control of similarities.

        Raises ModelError where weights cannot be drawn anew.
        """
        model = self.first.network.redrawn(self.first.model, self.config.seed)
        return replace(self.first, label="random weights", model=model)


def resolve(
    config: CompareConfig,
    registry: Registry,
    *,
    models: Mapping[str, nn.Module] | None = None,
    data: Data | None = None,
) -> Setup:
    """Open the networks and check that they can be compared.

    `models`, by what the configuration calls them, and `data` are a Python caller's own. Raises
    PolykitError with what does not fit and why: no such network, no dataset to compare on, shapes
    that differ where a line between the networks is asked for.
    """
    device, own = pick_device(config.device), models or {}
    texts = (config.a, *config.others)
    if config.a in config.others:
        raise UsageError(f"{config.a} is compared with itself; name another network")
    places = {text: saved.find(text) for text in texts if text not in own}
    data, dataset = _data(config, registry, places.get(config.a), data)
    labels = _labels(texts, places)
    found = {
        labels[text]: _compared(labels[text], text, config, registry, places, own, data, device)
        for text in texts
    }
    first, *rest = found.values()
    if config.path:
        for other in rest:
            _check_line(first, other)
    metrics = choose("metric", config.metrics if config.path else (), registry, config.options)
    named = (config.model, config.dataset, *config.metrics)
    names = {str(spec).partition(":")[0] for spec in named if spec}
    check_options_used(config, names, list(metrics.values()))
    setup = Setup(
        config=config,
        registry=registry,
        data=data,
        first=first,
        others={c.label: c for c in rest},
        metrics=metrics,
        layers=select_layers(first.trace, config.layers),
        device=device,
        plugins={
            "dataset": dataset,
            "networks": [c.record for c in (first, *rest)],
            "metrics": [metric_record(label, c) for label, c in metrics.items()],
        },
        spaces=Spaces(registry, config.options),
        remarks=tuple(_remarks(places, dataset, registry)),
    )
    check(metrics, setup.subject(first.model))
    return setup


def _remarks(
    places: Mapping[str, saved.Place], dataset: Mapping[str, Any], registry: Registry
) -> Iterator[str]:
    """Say which networks were trained on other data than they are compared on."""
    for place in places.values():
        if place.cell and saved.dataset_record(place, registry) != dataset:
            yield f"{place.label} was trained on other data, or with other options of them"


def _data(
    config: CompareConfig, registry: Registry, first: saved.Place | None, own: Data | None
) -> tuple[Data, dict[str, Any]]:
    """Load what the networks are compared on."""
    if own is not None or config.dataset is not None:
        return find_data(config.dataset or "", registry, config.options, own)
    if first is None or not first.cell:
        raise UsageError(
            f"{config.a} does not tell what data it is for; name them, e.g. --dataset digits"
        )
    run = saved.config_of(first)
    return find_data(run.dataset, registry, run.options)


def _labels(texts: tuple[str, ...], places: Mapping[str, saved.Place]) -> dict[str, str]:
    """Name networks by cell if they are of one run, else by run and cell; as written if need be."""
    if len(places) == len(texts) and len({place.path for place in places.values()}) == 1:
        short = {text: place.cell for text, place in places.items()}
    else:
        short = {text: places[text].label if text in places else text for text in texts}
    if len(set(short.values())) < len(texts):
        return {text: text for text in texts}
    return short


def _compared(
    label: str,
    text: str,
    config: CompareConfig,
    registry: Registry,
    places: Mapping[str, saved.Place],
    own: Mapping[str, nn.Module],
    data: Data,
    device: torch.device,
) -> Compared:
    if text in own:
        network = find_network(label, None, registry, {}, own[text])
        model = network.build(data, 0, device).eval()
    else:
        network = _network(text, config, registry, places)
        model = saved.load(places[text], network, data).to(device)
    x, _ = next(data.test.batches(1))
    return Compared(label, model, trace(model, x.to(device)), network)


def _network(
    text: str, config: CompareConfig, registry: Registry, places: Mapping[str, saved.Place]
) -> Network:
    """How a saved network is made: as its run did, or for a file as is said or as the first was."""
    if places[text].cell:
        return saved.network_of(places[text], registry)
    if config.model is not None:
        return find_network(config.model, None, registry, config.options)
    first = places.get(config.a)
    if first is None or not first.cell:
        raise UsageError(f"{text} holds weights only; name the model, e.g. --model mlp:widths=64")
    return saved.network_of(first, registry)


def _check_line(a: Compared, b: Compared) -> None:
    """Raise ModelError where there is no line between two networks."""
    why = first_difference(a.parameters(), b.parameters()) or _other_modules(a.model, b.model)
    if why is not None:
        raise ModelError(
            f"there is no line between {a.label} and {b.label}: {why}. How alike their layers and "
            f"predictions are can be told all the same: --no-path"
        )


def _other_modules(a: nn.Module, b: nn.Module) -> str | None:
    """Say where two networks with the same parameters differ in what they do with them."""
    theirs = dict(b.named_modules())
    for name, module in a.named_modules():
        if any(True for _ in module.children()):
            continue
        if repr(theirs.get(name)) != repr(module):
            return f"they differ first at {name}, {module!r} and {theirs.get(name)!r}"
    return None
