"""The contract tests find what they are there for: each plugin here breaks one promise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import nn

import polykit.testing
from polykit.api import (
    Dataset,
    Engine,
    Entry,
    FeatureSpacePlugin,
    Field,
    Metric,
    Model,
    SaliencyPruner,
    StreamingMetric,
    StructuralPruner,
    hookimpl,
)
from polykit.errors import DataError, ModelError, UsageError
from polykit.registry import Registry
from polykit.runtime.pruning.structure import Structure
from polykit.runtime.samples.splits import TensorSplit
from polykit.testing import checks, metrics, pruners, sources, unchanged
from polykit.testing.plugin import Plugin, answer_all
from polykit.types import Column, Data, FeatureSpace, Mask, Measurement, Scores


class Good(SaliencyPruner):
    """Random scores from the right generator."""

    def scores(self, model, objective, batches, *, candidates, mask, generator):
        draw = partial(torch.rand, generator=generator)
        shapes = {name: candidates.element_shape(name) for name in candidates.shapes}
        return Scores({name: draw(shape) for name, shape in shapes.items()}, candidates)


class Picky(Good):
    """Refuses kernels, which is an answer."""

    def prune(self, *arguments, candidates, **more):
        if candidates.granularity == "kernel":
            raise UsageError("no kernels, please")
        return super().prune(*arguments, candidates=candidates, **more)


class Refusing(Good):
    """Refuses everything."""

    def prune(self, *arguments, **more):
        raise UsageError("never")


class TooDense(Good):
    """Keeps more than it was told to."""

    def prune(self, *arguments, density, **more):
        return super().prune(*arguments, density=min(1.0, density + 0.2), **more)


class Stubborn(TooDense):
    """Finds its own density, even where one is asked for."""

    chooses_density: ClassVar[bool] = True


class Wilful(Good):
    """Finds its own density where none is asked for, and meets any other."""

    chooses_density: ClassVar[bool] = True

    def prune(self, *arguments, density, **more):
        return super().prune(*arguments, density=0.3 if density == 1 else density, **more)


class Shallow(Good):
    """Forgets layers."""

    def prune(self, *arguments, **more):
        mask = super().prune(*arguments, **more)
        return Mask({name: mask[name] for name in list(mask)[:1]})


class Crumbling(Good):
    """Removes single weights of kernels and units."""

    def prune(self, *arguments, candidates, **more):
        mask = super().prune(*arguments, candidates=candidates, **more)
        keep = {name: mask[name] for name in mask}
        first = keep[next(iter(candidates.shapes))].view(-1)
        first[int(first.nonzero()[0])] &= candidates.granularity != "unit"
        return Mask(keep, {name: mask.eligible(name) for name in mask})


class Gambling(Good):
    """Draws from the global generator."""

    def scores(self, *arguments, candidates, **more):
        torch.rand(1)
        return super().scores(*arguments, candidates=candidates, **more)


class Moody(Good):
    """Seeds itself by what it has done before."""

    calls: ClassVar[list[int]] = []

    def scores(self, *arguments, generator, **more):
        self.calls.append(1)
        generator.manual_seed(len(self.calls))
        return super().scores(*arguments, generator=generator, **more)


class Halfbaked(Good):
    """One of its choices does not work."""

    mode: str = Field("good", description="no choices at all")
    turbo: bool = Field(False, description="broken")

    def prune(self, *arguments, **more):
        if self.turbo:
            raise ZeroDivisionError
        return super().prune(*arguments, **more)


class Untidy(Good):
    """Leaves a hook."""

    def prune(self, model, *arguments, **more):
        model.register_forward_hook(lambda *_: None)
        return super().prune(model, *arguments, **more)


class Smith(StructuralPruner):
    """Removes units at random, one by one, till the density is reached."""

    def draws(self, size, generator):
        return torch.randperm(size, generator=generator).tolist()

    def shrink(self, model, objective, batches, *, density, candidates, generator):
        structure = Structure(model, next(iter(batches))[0])
        kept = [torch.ones(group.size, dtype=torch.bool) for group in structure.groups]
        places = [(g, u) for g, units in enumerate(kept) for u in range(1, len(units))]
        for index in self.draws(len(places), generator):
            if structure.parameters(kept) <= density * structure.original:
                break
            kept[places[index][0]][places[index][1]] = False
        return structure.smaller(kept)


class Reluctant(Smith):
    """Keeps more than it was told to."""

    def shrink(self, *arguments, density, **more):
        return super().shrink(*arguments, density=min(1.0, density + 0.3), **more)


class Feckless(Smith):
    """Draws from the global generator, and leaves it moved."""

    def draws(self, size, generator):
        return torch.randperm(size).tolist()


class Capricious(Smith):
    """Remembers how often it was asked."""

    calls: ClassVar[list[int]] = []

    def draws(self, size, generator):
        self.calls.append(1)
        return super().draws(size, torch.Generator().manual_seed(len(self.calls)))


class Masking(Smith):
    """Gives a mask back."""

    def shrink(self, *arguments, candidates, **more):
        return candidates.full()


class Lying(Smith):
    """Gets one thing wrong of what it says."""

    lie: ClassVar[dict[str, Any]] = {}

    def shrink(self, *arguments, **more):
        return replace(super().shrink(*arguments, **more), **self.lie)


class Miscounting(Lying):
    lie: ClassVar[dict[str, Any]] = {"parameters": 3}


class Exaggerating(Lying):
    lie: ClassVar[dict[str, Any]] = {"original": 10**6}


class Forgetful(Lying):
    lie: ClassVar[dict[str, Any]] = {"units": {}}


class Mistaken(Smith):
    """Counts units from 1."""

    def shrink(self, *arguments, **more):
        small = super().shrink(*arguments, **more)
        return replace(small, units={name: units + 1 for name, units in small.units.items()})


class Careless(Smith):
    """Does something to the smaller network before it is handed over."""

    def shrink(self, model, *arguments, **more):
        small = super().shrink(model, *arguments, **more)
        self.spoil(small.model, model)
        return small

    def spoil(self, small, model):
        small.train()


class Borrowing(Careless):
    def spoil(self, small, model):
        small[-1].bias = model[-1].bias


class Topless(Careless):
    def spoil(self, small, model):
        for name, parameter in list(small[-1].named_parameters()):
            setattr(small[-1], name, nn.Parameter(parameter.detach()[:1]))


class Broken(Careless):
    def spoil(self, small, model):
        small[-1].bias.data.fill_(float("nan"))


class Vandal(Smith):
    """Works on the user's network."""

    def shrink(self, model, *arguments, **more):
        next(model.parameters()).data.zero_()
        return super().shrink(model, *arguments, **more)


class Halfforged(Smith):
    """One of its choices does not work."""

    turbo: bool = Field(False, description="broken")

    def shrink(self, *arguments, **more):
        if self.turbo:
            raise ZeroDivisionError
        return super().shrink(*arguments, **more)


class Level(StreamingMetric):
    """The mean activation before the nonlinearity."""

    columns: ClassVar[dict[str, Column]] = {"level": Column("mean activation", "")}
    headline: ClassVar[str] = "level"
    reads: ClassVar[Any] = ("pre",)

    def update(self, subject, state, batch):
        state = state or {}
        for layer, values in batch.activations["pre"].items():
            old, seen = state.get(layer, (0, 0))
            flat = values.double().flatten(2) if values.dim() > 2 else values.double().unsqueeze(2)
            state[layer] = (old + flat.mean(2).sum(0), seen + len(values))
        return state

    def value(self, total):
        return total

    def finish(self, subject, state):
        rows = [
            {"layer": layer, "unit": unit, "level": self.value(float(total[unit] / seen))}
            for layer, (total, seen) in state.items()
            for unit in range(len(total))
        ]
        return Measurement(units=pd.DataFrame(rows))


class PerChunk(Level):
    """Averages over chunks as if they were equally large."""

    def update(self, subject, state, batch):
        old = state or {}
        new = super().update(subject, None, batch)
        return {
            layer: (total / seen + old.get(layer, (0, 0))[0], 1 + old.get(layer, (0, 0))[1])
            for layer, (total, seen) in new.items()
        }


class Undeclared(Level):
    """Reports a column it never declared."""

    columns: ClassVar[dict[str, Column]] = {"height": Column("?", "")}
    headline: ClassVar[str] = ""


class OutOfRange(Level):
    """Declares a range that it does not keep."""

    columns: ClassVar[dict[str, Column]] = {"level": Column("mean", "", 0, 0.01)}


class Undefined(Level):
    """Passes NaN on as a number."""

    def value(self, total):
        return float("nan")


class Headless(Level):
    """Shows off with a column that is not there."""

    headline: ClassVar[str] = "height"


class Baseless(Level):
    """Sets a column beside another basis' that is not there."""

    bases: ClassVar[dict[str, str]] = {"neuron": "level", "pca": "height"}


class Noisy(Level):
    """Never says the same twice."""

    noise: ClassVar[Any] = torch.Generator().manual_seed(0)

    def value(self, total):
        return total + 1e-9 * float(torch.rand(1, generator=self.noise))


class Meddling(Metric):
    """Changes what it measures."""

    columns: ClassVar[dict[str, Column]] = {"size": Column("norm", "")}

    def measure(self, subject):
        with torch.no_grad():
            next(iter(subject.model.parameters())).mul_(2)
        return Measurement(summary={"size": 1.0})


class Silent(Metric):
    """Reports nothing."""

    def measure(self, subject):
        return Measurement()


class Undocumented(Level):
    secret: int = 3


class Required(Level):
    """Has an option without a default."""

    must: int = Field(description="how many")


def split(x, y):
    return TensorSplit(x, y)


def data(x, y, **more):
    parts = {part: split(x, y) for part in ("train", "validation", "test")}
    return Data("odd", **parts, task="classification", input_shape=(2,), outputs=2, **more)


class Stable(Dataset):
    """Four samples."""

    def load(self):
        return data(torch.eye(4)[:, :2], torch.tensor([0, 1, 0, 1]))


class Drifting(Dataset):
    """Other samples each time."""

    noise: ClassVar[Any] = torch.Generator().manual_seed(0)

    def load(self):
        return data(torch.rand(4, 2, generator=self.noise), torch.tensor([0, 1, 0, 1]))


class Misshapen(Dataset):
    """Inputs that are not of the shape that it says."""

    def load(self):
        return data(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))


class Strange(Dataset):
    """A class that it says it does not have."""

    def load(self):
        return data(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]))


class Absent(Dataset):
    """Needs a folder."""

    folder: str = Field("", description="where")

    def load(self):
        if not self.folder:
            raise DataError("needs a folder")
        return Stable().load()


class Linear(Model):
    """One layer, for flat inputs."""

    def build(self, input_shape, outputs):
        if len(input_shape) > 1:
            raise ModelError("flat inputs only")
        return nn.Sequential(nn.Linear(*input_shape, outputs))


class Wide(Linear):
    """One output too many."""

    def build(self, input_shape, outputs):
        return super().build(input_shape, outputs + 1)


class Restless(Linear):
    """Other weights each time."""

    def build(self, input_shape, outputs):
        torch.seed()
        return super().build(input_shape, outputs)


class Spread(FeatureSpacePlugin):
    """Every input is a feature."""

    def encode(self, features):
        return features.view(-1, 1, 6, 6)

    def build(self, subject):
        return FeatureSpace("spread", 36, self.encode)


class Mixed(Spread):
    """Rows depend on each other."""

    def encode(self, features):
        return super().encode(features - features.mean(0))


class Cut(Spread):
    """No gradient gets through."""

    def encode(self, features):
        return super().encode(features.round() + 0 * features)


class Deep(FeatureSpacePlugin):
    """Features enter behind the first layer, one for each of its units."""

    def build(self, subject):
        layer = subject.trace.layers[0]
        call = subject.trace.of(layer)[0]
        self.look(subject.model)
        return FeatureSpace("deep", call.units, partial(self.encode, call.shape[1:]), layer=layer)

    def look(self, model):
        pass

    def encode(self, positions, features):
        return features.view(*features.shape, *(1 for _ in positions)).expand(-1, -1, *positions)


class Flat(Deep):
    """Forgets the positions of a map, and a unit."""

    def encode(self, positions, features):
        return features[:, 1:]


class Tampering(Deep):
    """Leaves the network in training mode."""

    def look(self, model):
        model.train()


class Elsewhere(Spread):
    """Features enter at a layer that is not there."""

    def build(self, subject):
        return FeatureSpace("elsewhere", 36, self.encode, layer="nowhere")


class Wandering(Spread):
    """Another space each time."""

    noise: ClassVar[Any] = torch.Generator().manual_seed(0)

    def build(self, subject):
        weight = torch.rand(36, 36, generator=self.noise)
        return FeatureSpace("wandering", 36, lambda features: self.encode(features @ weight))


class Backwards(Engine):
    """Gives results in the wrong order."""

    def executor(self, *, threads, device):
        from concurrent.futures import ThreadPoolExecutor

        class Pool(ThreadPoolExecutor):
            def map(self, *arguments):
                return reversed(list(super().map(*arguments)))

        return Pool(1)


KINDS = {
    SaliencyPruner: "pruner",
    StructuralPruner: "pruner",
    Metric: "metric",
    StreamingMetric: "metric",
    Dataset: "dataset",
    Model: "model",
    FeatureSpacePlugin: "feature-space",
    Engine: "engine",
}


def plugin(kind, options=lambda _: {}):
    entry_kind = next(name for base, name in KINDS.items() if issubclass(kind, base))
    entry = Entry(entry_kind, "odd", f"{__name__}:{kind.__name__}", "an odd plugin")

    class Brings:
        @hookimpl
        def polykit_entries(self):
            return [entry]

    registry = Registry.discover()
    registry.register(Brings(), "odd", "odd-dist")
    return Plugin(registry, registry.find(entry_kind, "odd-dist:odd"), options)


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        (pruners.density, Good),
        (pruners.density, Picky),
        (pruners.choices, Good),
        (pruners.deterministic, Good),
        (pruners.density, Smith),
        (pruners.choices, Smith),
        (pruners.deterministic, Smith),
        (metrics.values, Level),
        (metrics.chunks, Level),
        (metrics.deterministic, Level),
        (sources.loads, Stable),
        (sources.builds, Linear),
        (sources.encodes, Spread),
        (sources.encodes, Deep),
        (checks.documented, Level),
        (checks.recorded, Good),
    ],
)
def test_good_plugins_pass(tmp_path, check, kind):
    check(plugin(kind), tmp_path)


@pytest.mark.parametrize(
    ("check", "kind", "words"),
    [
        (pruners.density, TooDense, "further than one element"),
        (pruners.density, Stubborn, "further than one element"),
        (pruners.density, Shallow, "the mask covers"),
        (pruners.density, Crumbling, "units were removed in part"),
        (pruners.density, Gambling, "torch's random number generator has changed"),
        (pruners.density, Untidy, "hooks were left on the model"),
        (pruners.density, Refusing, "it runs on nothing at all"),
        (pruners.choices, Halfbaked, "turbo=True: ZeroDivisionError"),
        (pruners.deterministic, Moody, "different masks"),
        (pruners.density, Reluctant, "further than whole units"),
        (pruners.density, Feckless, "torch's random number generator has changed"),
        (pruners.deterministic, Capricious, "kept different units"),
        (pruners.density, Masking, "returns a Mask, not a Smaller"),
        (pruners.density, Miscounting, "it says parameters = 3"),
        (pruners.density, Exaggerating, "it says original = 1000000"),
        (pruners.density, Forgetful, "does not name layer '1'"),
        (pruners.density, Mistaken, "no ascending indices below"),
        (pruners.density, Careless, "in training mode"),
        (pruners.density, Borrowing, "shares 5.bias with the user's"),
        (pruners.density, Topless, r"outputs are \(10, 1\)"),
        (pruners.density, Broken, "NaN or infinity"),
        (pruners.density, Vandal, "the value of 1.weight has changed"),
        (pruners.choices, Halfforged, "turbo=True: ZeroDivisionError"),
        (metrics.chunks, PerChunk, "column level differs by"),
        (metrics.values, Undeclared, "'level' is not among the metric's columns"),
        (metrics.values, OutOfRange, r"outside the declared \[0, 0.01\]"),
        (metrics.values, Undefined, "is nan"),
        (metrics.values, Headless, "headline 'height' is no column"),
        (metrics.values, Baseless, "'height', of basis 'pca', is no column"),
        (metrics.values, Silent, "it reports nothing"),
        (metrics.deterministic, Noisy, "column level differs"),
        (metrics.values, Meddling, "the value of 1.weight has changed"),
        (checks.documented, Undocumented, "no docstring|no description"),
        (checks.documented, Required, "option 'must' has no default"),
        (sources.loads, Drifting, "train differs between two loads"),
        (sources.loads, Misshapen, r"inputs \(3,\), not \(2,\)"),
        (sources.loads, Strange, "targets that are no classes"),
        (sources.loads, Absent, "it refuses: needs a folder"),
        (sources.builds, Wide, r"outputs are \(2, 5\)"),
        (sources.builds, Restless, "one seed gave two different networks"),
        (sources.encodes, Mixed, "a row depends on the other rows"),
        (sources.encodes, Cut, "do not depend differentiably"),
        (sources.encodes, Flat, r"coefficient vectors became \(3, 11\), not \(3, 12\)"),
        (sources.encodes, Tampering, "training flags have changed"),
        (sources.encodes, Elsewhere, "enter at 'nowhere', which is no layer"),
        (sources.encodes, Wandering, "two spaces differ"),
        (sources.maps, Backwards, r"came back as \[16, 9"),
    ],
)
def test_broken_promises_are_found(tmp_path, check, kind, words):
    with pytest.raises(AssertionError, match=words):
        check(plugin(kind), tmp_path)


def test_options_let_a_plugin_run_that_could_not(tmp_path):
    sources.loads(plugin(Absent, lambda folder: {"folder": str(folder)}), tmp_path)


def test_refusals_need_words_and_company():
    def refuse(reason):
        raise DataError(reason)

    answer_all([("a", lambda: None), ("b", partial(refuse, "no such data"))])
    with pytest.raises(AssertionError, match="b: refused without a reason"):
        answer_all([("a", lambda: None), ("b", partial(refuse, " "))])
    with pytest.raises(AssertionError, match="runs on nothing at all:\nb: no such data"):
        answer_all([("b", partial(refuse, "no such data"))])


def test_contract_of_a_missing_distribution_says_how_to_install_it(tmp_path):
    test = polykit.testing.contract("nowhere-to-be-found")
    ((installed,),) = [mark.args[1] for mark in test.pytestmark]
    with pytest.raises(AssertionError, match="pip install -e"):
        installed.values[0](tmp_path)


def replace_weight(model):
    model.weight = nn.Parameter(model.weight.detach().clone())


def backward(model):
    model(torch.ones(1, 2)).sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.weight.data.add_(1), "the value of weight"),
        (replace_weight, "weight is another object"),
        (lambda model: model.weight.requires_grad_(False), "requires_grad of weight"),
        (backward, "grad of weight appeared"),
        (lambda model: model.train(), "training flags"),
        (lambda model: model.register_forward_pre_hook(lambda *_: None), "hooks"),
        (lambda model: model.register_full_backward_hook(lambda *_: None), "hooks"),
        (lambda model: model.register_buffer("more", torch.zeros(1)), "added or removed"),
        (lambda model: torch.rand(1), "torch's random number generator"),
        (lambda model: __import__("random").random(), "Python's random number generator"),
        (lambda model: __import__("numpy").random.rand(), "NumPy's random number generator"),
    ],
)
def test_unchanged_sees_every_change(change, words):
    model = nn.Linear(2, 1).eval()
    with unchanged(model):
        model(torch.ones(1, 2))
    with pytest.raises(AssertionError, match=words), unchanged(model):
        change(model)


def test_unchanged_sees_whether_gradients_are_recorded():
    with torch.enable_grad():
        with pytest.raises(AssertionError, match="whether gradients are recorded"), unchanged():
            torch.set_grad_enabled(False)
        assert not torch.is_grad_enabled()


def test_unchanged_looks_even_after_an_error():
    model = nn.Linear(2, 1)

    def change_and_fail():
        model.weight.data.add_(1)
        raise UsageError("and now for something else")

    with pytest.raises(AssertionError, match="the value of weight"), unchanged(model):
        change_and_fail()
