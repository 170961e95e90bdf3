"""Regression problems whose features are known: ground truth by construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import Tensor

from polykit.api import Dataset, Field, IntList
from polykit.runtime.samples.data import as_data
from polykit.runtime.samples.splits import FRACTIONS, SPLITS, split_indices
from polykit.runtime.seeds import generator, seeded
from polykit.types import Data, FeatureSpace
from polykit_builtins.datasets.autoencoder import train_autoencoder
from polykit_builtins.datasets.ground_truth.card import Card
from polykit_builtins.datasets.ground_truth.features import draw_features, tilt
from polykit_builtins.datasets.ground_truth.files import load_world, world_from
from polykit_builtins.datasets.ground_truth.maps import (
    Encoder,
    FeatureMaps,
    Importance,
    draw_feature_maps,
)
from polykit_builtins.datasets.ground_truth.seeds import search_seeds, solve_seeds
from polykit_builtins.datasets.ground_truth.sizes import draw_sizes
from polykit_builtins.datasets.ground_truth.world import World


def _split(value: Any) -> Any:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


FloatList = Annotated[tuple[float, ...], BeforeValidator(_split)]


@dataclass(frozen=True)
class Scenario:
    """One of the published settings."""

    hidden: tuple[int, ...]
    inputs: int
    sparsity: tuple[float, float]
    linear: bool
    outputs: int = 2


SCENARIOS = {
    "L1": Scenario((32,), 10, (0.6, 0.8), True),
    "L2": Scenario((32, 24, 8), 10, (0.8, 0.9), True),
    "N1": Scenario((12, 4), 5, (0.65, 0.75), False),
    "N2": Scenario((32,), 10, (0.6, 0.8), False),
    "N3": Scenario((32, 24, 8), 10, (0.8, 0.9), False),
    "N4": Scenario((64, 48, 16), 10, (0.85, 0.95), False),
}


class FeatureModel(Dataset):
    """Ground truth by construction: q sparse features, inputs encoded from them, labels.

    Feature j is 0 with probability s_j, else U(0, 1); s_j ~ U(sparsity_low, sparsity_high). The
    feature model is a network q → hidden layers that hold the features, q in all → outputs, with
    ReLU between its maps but the first two (so none in N2). Weights U(−1, 1), set to zero below the
    threshold, at least two per neuron kept; b = 0.5 − W·0.5.

    Labels: `exact`, the default, continues from the drawn features themselves: h_1 = f_1,
    h_l = f_l + ReLU(W_l h_{l−1} + b_l), y = W_out h_L + b_out. `faithful`, as published, searches
    for each sample the feature model's input (seed vector) whose hidden values, before the ReLU,
    come closest to the features, and takes the label the feature model gives for it. The search
    misses: the data's card says by how much, and how much of the labels can be known at all.
    Everything but the labels is the same for both.

    The input is x = encoder(f): q → ⌊q/2⌋ → inputs with ReLU between (none if linear), trained as
    an autoencoder with the mirrored decoder (MSE, Adam 1e-3, batches of 32). Split 70 / 15 / 15.
    Gives the feature space `truth`; `Data.truth` saved as a safetensors file is what `file` loads.
    Beyond the source: features that occur together, and frequencies that fall as a power law.

    Source: Plettscher, §3.2, Algorithm 1 and the settings of §4 and its appendices.

    >>> data = FeatureModel(scenario="L1", samples=100, encoder_epochs=1).load()
    >>> data.input_shape, data.outputs, data.features.n_features, len(data.train)
    ((10,), 2, 32, 70)
    """

    argument: ClassVar[str] = "scenario"

    scenario: Literal["L1", "L2", "N1", "N2", "N3", "N4"] = Field(
        "N1", description="published setting that gives what is not set below; L: linear"
    )
    hidden: IntList | None = Field(
        None, description="features in each layer of the feature model; none: the scenario's"
    )
    features: int | None = Field(
        None, ge=2, description="number of features q, shared out over layers by Algorithm 1"
    )
    min_neurons: int | None = Field(
        None, ge=1, description="least size of a drawn layer; none: an eighth of the features"
    )
    max_neurons: int | None = Field(
        None, ge=1, description="greatest size of a drawn layer; none: half the features"
    )
    inputs: int | None = Field(
        None, ge=1, description="size of the input the features are encoded in; none: scenario's"
    )
    outputs: int | None = Field(
        None, ge=1, description="number of labels of each sample; none: the scenario's"
    )
    linear: bool | None = Field(
        None, description="no ReLU in feature model and encoder; none: the scenario's"
    )
    sparsity_low: float | None = Field(
        None, ge=0, le=1, description="least probability of a zero; none: the scenario's"
    )
    sparsity_high: float | None = Field(
        None, ge=0, le=1, description="greatest probability of a zero; none: the scenario's"
    )
    sparsity: FloatList | None = Field(
        None, description="probability of a zero, one for each feature; none: drawn"
    )
    importance: Importance = Field(
        "uniform", description="distribution of the feature model's weights, all equally wide"
    )
    threshold: float = Field(0.05, ge=0, description="weights of lesser size become zero")
    generator: Literal["exact", "faithful"] = Field(
        "exact", description="labels read out of the features, or by seed vectors, as published"
    )
    search: Literal["adam", "least-squares"] = Field(
        "adam", description="how seed vectors are found (faithful; the second where it is linear)"
    )
    steps: int = Field(1000, ge=1, description="steps of the search by Adam (faithful)")
    lr: float = Field(0.01, gt=0, description="learning rate of the search by Adam (faithful)")
    correlation: float = Field(
        0.0, ge=0, le=1, description="correlation of features' occurrence within a group"
    )
    groups: int = Field(4, ge=1, description="groups of features that occur together")
    power_law: float = Field(
        0.0, ge=0, le=10, description="exponent of the features' frequencies by rank; mean kept"
    )
    samples: int | None = Field(
        None, ge=20, description="number of samples; none: 50 · features · outputs"
    )
    encoder_epochs: int = Field(100, ge=1, description="training epochs of the encoder")
    seed: int = Field(0, ge=0, description="seed of everything that is drawn")
    file: str = Field("", description="saved world (.safetensors) to load instead; alone")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.file:
            self._check_alone()
            return self
        self._check_sizes()
        self._check_sparsity()
        if self.search == "least-squares":
            if self.generator == "exact":
                raise ValueError(
                    "search=least-squares finds seed vectors, and generator=exact needs none; "
                    "add generator=faithful"
                )
            if not self._setting.linear and len(self.sizes) > 2:
                raise ValueError(
                    f"search=least-squares needs features that are linear in the seed vector, and "
                    f"the layers {_text(self.sizes)} have a ReLU between; use search=adam, "
                    f"linear=true or two layers at most"
                )
        return self

    def _check_alone(self) -> None:
        fields = type(self).model_fields
        others = [n for n, f in fields.items() if n != "file" and getattr(self, n) != f.default]
        if others:
            raise ValueError(f"file={self.file} fixes the whole world; drop {', '.join(others)}")

    def _check_sizes(self) -> None:
        setting, drawn = self._setting, self.min_neurons is not None or self.max_neurons is not None
        if self.hidden is not None:
            if not self.hidden or min(self.hidden) < 1:
                raise ValueError("hidden needs at least one feature in every layer, e.g. 12,4")
            if self.features not in (None, sum(self.hidden)):
                raise ValueError(
                    f"the layers {_text(self.hidden)} hold {sum(self.hidden)} features, not "
                    f"features={self.features}; drop one of the two, or make them agree"
                )
            if drawn:
                raise ValueError(
                    "min_neurons and max_neurons bound layers that are drawn; drop them, or hidden"
                )
        elif drawn and self._bounds[0] > self._bounds[1]:
            low, high = self._bounds
            raise ValueError(f"min_neurons {low} is above max_neurons {high}; lower it")
        if self._q < max(2, setting.inputs):
            raise ValueError(
                f"{self._q} features are fewer than the {setting.inputs} inputs that encode them; "
                f"take more features or inputs={self._q} at most (and two features at least)"
            )
        if self.correlation and self.groups > self._q:
            raise ValueError(f"{self.groups} groups are more than the {self._q} features")

    def _check_sparsity(self) -> None:
        low, high = self._setting.sparsity
        if self.sparsity is None:
            if low > high:
                raise ValueError(f"sparsity_low {low:g} is above sparsity_high {high:g}")
            return
        if self.sparsity_low is not None or self.sparsity_high is not None:
            raise ValueError("sparsity lists every feature's; drop sparsity_low and sparsity_high")
        if len(self.sparsity) != self._q:
            raise ValueError(
                f"sparsity lists {len(self.sparsity)} probabilities for {self._q} features; give "
                f"one for each, or sparsity_low and sparsity_high"
            )
        if not all(0 <= s <= 1 for s in self.sparsity):
            raise ValueError("each sparsity is a probability in [0, 1]")

    @property
    def _setting(self) -> Scenario:
        """The scenario, with what the options override."""
        preset = SCENARIOS[self.scenario]
        low, high = preset.sparsity
        return Scenario(
            hidden=self.hidden if self.hidden is not None else preset.hidden,
            inputs=self.inputs if self.inputs is not None else preset.inputs,
            outputs=self.outputs if self.outputs is not None else preset.outputs,
            linear=self.linear if self.linear is not None else preset.linear,
            sparsity=(
                self.sparsity_low if self.sparsity_low is not None else low,
                self.sparsity_high if self.sparsity_high is not None else high,
            ),
        )

    @property
    def _q(self) -> int:
        return self.features if self.features is not None else sum(self._setting.hidden)

    @property
    def _bounds(self) -> tuple[int, int]:
        """Least and greatest size of a drawn layer."""
        low, high = self.min_neurons, self.max_neurons
        if low is None:
            low = max(1, min(self._q // 8, self._q if high is None else high))
        return low, max(low, self._q // 2) if high is None else high

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of features in each layer: as given, or drawn by Algorithm 1."""
        given = (self.features, self.min_neurons, self.max_neurons) == (None, None, None)
        if self.hidden is not None or given:
            return self._setting.hidden
        return draw_sizes(self._q, *self._bounds, self._random("sizes"))

    def load(self) -> Data:
        """Make the world, or read it; raise DataError where the file holds none."""
        return data_of(load_world(Path(self.file)) if self.file else self.make())

    def restore(self, truth: Mapping[str, Tensor]) -> Data:
        """Put the world together again from its tensors; raise DataError where they are damaged."""
        return data_of(world_from(truth))

    def make(self) -> World:
        """Draw the feature model and the features, train the encoder, compute the labels."""
        setting, q = self._setting, self._q
        maps = draw_feature_maps(
            self.sizes,
            setting.outputs,
            importance=self.importance,
            threshold=self.threshold,
            linear=setting.linear,
            generator=self._random("weights"),
        )
        n = self.samples if self.samples is not None else 50 * q * setting.outputs
        sparsity = self._draw_sparsity(q, *setting.sparsity)
        features = draw_features(
            n,
            sparsity,
            correlation=self.correlation,
            groups=self.groups,
            generator=self._random("features"),
        )
        seeds = self._seeds(maps, features) if self.generator == "faithful" else None
        encoder, decoder = self._autoencoder(features, (q, q // 2, setting.inputs), setting.linear)
        return World(
            maps,
            encoder,
            decoder,
            sparsity,
            features,
            inputs=encoder(features),
            labels=maps.readout(features) if seeds is None else maps.labels(seeds),
            seeds=seeds,
            parts=dict(zip(SPLITS, split_indices(n, FRACTIONS, self.seed), strict=True)),
        )

    def _random(self, name: str) -> torch.Generator:
        return generator(self.seed, "feature-model", name)

    def _draw_sparsity(self, q: int, low: float, high: float) -> Tensor:
        random = self._random("sparsity")
        drawn = low + (high - low) * torch.rand(q, generator=random)
        given = drawn if self.sparsity is None else torch.tensor(self.sparsity)
        return tilt(given, self.power_law, random) if self.power_law else given

    def _seeds(self, maps: FeatureMaps, features: Tensor) -> Tensor:
        if self.search == "least-squares":
            return solve_seeds(maps, features)
        start = torch.randn(features.shape, generator=self._random("seeds"))
        return search_seeds(maps, features, start, steps=self.steps, lr=self.lr)

    def _autoencoder(
        self, features: Tensor, sizes: tuple[int, ...], linear: bool
    ) -> tuple[Encoder, Encoder]:
        with seeded(self.seed, "feature-model", "encoder"):
            weights, biases = train_autoencoder(
                features, sizes, epochs=self.encoder_epochs, linear=linear
            )
        half = len(weights) // 2
        return (
            Encoder(weights[:half], biases[:half], linear),
            Encoder(weights[half:], biases[half:], linear),
        )


def data_of(world: World) -> Data:
    """Return a world as data."""
    splits = {name: (world.inputs[part], world.labels[part]) for name, part in world.parts.items()}
    data = as_data(splits, name="feature-model", task="regression")
    q = world.features.shape[1]
    names = tuple(f"feature {j}" for j in range(q))
    return replace(
        data,
        features=FeatureSpace("truth", q, world.encoder, names),
        truth=world.tensors(),
        card=Card(world),
    )


def _text(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))
