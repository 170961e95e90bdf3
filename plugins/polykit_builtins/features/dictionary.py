"""Features learned from activations, for networks whose features are not known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polykit.api import FeatureSpacePlugin, Field
from polykit.errors import DataError, ModelError, UsageError
from polykit.runtime.passes.addressing import select_layers
from polykit.runtime.passes.capture import capture
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import derive, generator
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.loop import train
from polykit.types import Data, FeatureSpace, Site, Subject, Trace
from polykit_builtins.features.affine import Affine
from polykit_builtins.features.sparse_autoencoder import SparseAutoencoder, sparse_loss

PARAMETERS = 2**26
"""How many numbers the directions of a dictionary may have."""

STEPS, EPOCHS = 5000, 200
"""How long to train: about so many steps, but no more passes than that."""


INPUT = "input"
"""The name of the model's input where a layer is asked for."""


class Dictionary(FeatureSpacePlugin):
    """Directions that a sparse autoencoder finds in a layer's activations on the training data.

    Feature j enters at that layer, behind its nonlinearity: the zero vector is the layer's mean
    activation; e_j adds direction d_j (unit norm) times its mean code where it is active, so that
    e_j is as strong as the feature usually comes (less what an L1 penalty takes away). In a conv
    layer every position is a sample, and e_j is added at all of them. Directions that are active
    on no activation kept are left out; the others keep their number in `names`. Activations are
    scaled to mean squared distance 1 from their mean, so `l1` and `lr` mean the same everywhere.
    Only units behind the layer can be attributed; with `layer=input` (the flattened model input)
    all can.

    Source: Sharkey et al. 2022, Taking features out of superposition with sparse autoencoders;
    Cunningham et al. 2023; Bricken et al. 2023; Gao et al. 2024 (top-k).
    """

    argument: ClassVar[str] = "layer"

    layer: str = Field(
        "", description="where features enter: a layer, input, or empty for the first hidden layer"
    )
    size: int | None = Field(
        None, ge=1, description="number of directions; none: four times the layer's units"
    )
    sparsity: Literal["l1", "topk"] = Field("l1", description="what keeps the codes sparse")
    l1: float = Field(0.3, ge=0, description="penalty on the codes, of sparsity=l1 only")
    k: int = Field(4, ge=1, description="codes of each activation, of sparsity=topk only")
    epochs: int | None = Field(
        None,
        ge=1,
        description=f"passes over the activations kept; none: {STEPS} steps, in {EPOCHS} at most",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate (Adam)")
    batch_size: int = Field(64, ge=1, description="activations per training step")
    samples: int = Field(10_000, ge=1, description="activations kept, at most")
    seed: int = Field(0, ge=0, description="seed of the choice of activations and of the training")

    @property
    def depends_on_model(self) -> bool:
        """Inputs are the same for every network, activations are not."""
        return self.layer != INPUT

    def build(self, subject: Subject) -> FeatureSpace:
        """Read activations on the training split and learn directions from them.

        Raises UsageError for a layer the model does not have or a dictionary that is too large,
        DataError where the activations do not vary, ModelError where they are not finite.
        """
        layer = self._entry(subject.trace)
        vectors, mean = self.activations(subject, layer)
        where = f"layer {layer!r}" if layer else "the input"
        if not bool(torch.isfinite(vectors).all()):
            raise ModelError(
                f"{where} gives NaN or infinite values on the training samples; look for NaN in "
                f"the weights, or train with a lower lr"
            )
        found = self.learn(vectors, subject.device, where)
        offsets = found.directions * found.strengths.unsqueeze(1)
        shape = (-1, *mean.shape) if not layer else (-1, len(mean), *[1] * (mean.dim() - 1))
        names = tuple(f"direction {j}" for j in found.numbers)
        dtype = torch.get_default_dtype()
        encode = Affine(mean.to(subject.device, dtype), offsets.to(dtype).view(shape))
        return FeatureSpace("dictionary", len(names), encode, names, layer)

    def activations(self, subject: Subject, layer: str) -> tuple[Tensor, Tensor]:
        """Return activations `[n, dimension]`, n ≤ `samples`, and the mean one `[*shape]`.

        They are spread over as many samples of the training split as possible; in maps positions
        are taken at even distances from a random start. Memory: those kept and one chunk.
        """
        total = len(subject.data.train)
        positions = subject.trace.of(layer)[0].positions if layer else 1
        each = min(positions, max(1, self.samples // total))
        random = generator(self.seed, "dictionary", "samples")
        order = torch.randperm(total, generator=random)[: max(1, self.samples // each)]
        starts = torch.randint(positions, (len(order), 1), generator=random)
        picked = (starts + torch.arange(each) * positions // each) % positions
        parts, sums, count = [], torch.zeros(()), 0
        for values in _values(subject, layer, order.sort().values):
            sums = sums + values.cpu().double().sum(dim=0)
            maps = values.flatten(1).unsqueeze(2) if not layer else values.unsqueeze(-1).flatten(2)
            chosen = picked[count : count + len(maps)].to(maps.device).unsqueeze(1)
            vectors = maps.gather(2, chosen.expand(-1, maps.shape[1], -1))
            parts.append(vectors.movedim(1, 2).flatten(0, 1).cpu())
            count += len(values)
        return torch.cat(parts), sums / count

    def learn(self, vectors: Tensor, device: torch.device, where: str = "the data") -> Learned:
        """Find directions in vectors `[n, dimension]`."""
        n, dimension = vectors.shape
        size = 4 * dimension if self.size is None else self.size
        self._check_size(size, dimension, where)
        vectors = vectors.to(torch.get_default_dtype())
        mean = vectors.mean(dim=0)
        scale = (vectors - mean).double().square().sum(dim=1).mean().sqrt().item()
        if scale <= 1e-6 * float(mean.norm()):
            raise DataError(
                f"{where} is the same for all {n} training activations, so there is nothing to "
                f"learn a dictionary from; choose another layer, or train the network"
            )
        vectors = vectors / scale
        k = self.k if self.sparsity == "topk" else None
        random = generator(self.seed, "dictionary", "start")
        autoencoder = SparseAutoencoder(mean / scale, size, k=k, generator=random)
        data = self._data(vectors)
        epochs = self.epochs or min(EPOCHS, ceil(STEPS / ceil(len(data.train) / self.batch_size)))
        with torch.enable_grad():
            train(
                autoencoder,
                data,
                TrainingConfig(lr=self.lr, batch_size=self.batch_size),
                epochs,
                seed=derive(self.seed, "dictionary"),
                device=device,
                loss=sparse_loss(0.0 if k else self.l1),
            )
        return self._living(autoencoder, vectors, scale, device)

    def _check_size(self, size: int, dimension: int, where: str) -> None:
        if size * dimension > PARAMETERS:
            raise UsageError(
                f"{size} directions for the {dimension} values of {where} are more than fit in "
                f"memory; give a smaller size, or choose a layer with fewer units"
            )
        if self.sparsity == "topk" and self.k >= size:
            raise UsageError(
                f"k={self.k} codes of {size} directions are not sparse; choose a smaller k"
            )

    def _entry(self, trace: Trace) -> str:
        """Return the layer at which features enter, empty for the input."""
        if self.layer == INPUT:
            return ""
        if self.layer:
            first, *more = select_layers(trace, [self.layer])
            if more:
                raise UsageError(
                    f"a dictionary is learned at one layer; {self.layer!r} names {first} and "
                    f"{more[0]}"
                )
            return first
        hidden = [layer for layer in trace.layers if layer != trace.output_layer]
        if not hidden:
            raise UsageError("the network has no hidden layer for a dictionary; use layer=input")
        return hidden[0]

    def _data(self, vectors: Tensor) -> Data:
        """Hold a tenth out, in order that training can tell its loss."""
        order = torch.randperm(len(vectors), generator=generator(self.seed, "dictionary", "split"))
        cut = len(vectors) // 10
        held, rest = vectors[order[: max(1, cut)]], vectors[order[cut:]]
        test, dimension = TensorSplit(held, held), vectors.shape[1]
        return Data(
            "activations",
            TensorSplit(rest, rest),
            test,
            test,
            "regression",
            (dimension,),
            dimension,
        )

    def _living(
        self, autoencoder: SparseAutoencoder, vectors: Tensor, scale: float, device: torch.device
    ) -> Learned:
        """Keep the directions that are ever active; raise DataError if there is none."""
        sums, counts = torch.zeros(()), torch.zeros(())
        with torch.no_grad():
            for part in vectors.split(1024):
                codes = autoencoder.encode(part.to(device)).cpu().double()
                sums, counts = sums + codes.sum(dim=0), counts + (codes > 0).sum(dim=0)
            alive = (counts > 0).nonzero().squeeze(1)
            directions = autoencoder.directions.cpu()[alive]
        if not len(alive):
            raise DataError(
                "no direction of the dictionary is ever active; lower l1, or take sparsity=topk"
            )
        strengths = scale * sums[alive] / counts[alive]
        return Learned(directions, strengths.to(directions), tuple(alive.tolist()))


@dataclass(frozen=True)
class Learned:
    """Unit directions `[m, dimension]`, their mean codes where active `[m]`, and their numbers."""

    directions: Tensor
    strengths: Tensor
    numbers: tuple[int, ...]


def _values(subject: Subject, layer: str, order: Tensor) -> Iterator[Tensor]:
    """Yield the values `[n, units, *positions]` of a layer, or the inputs, chunk by chunk."""
    site = Site(layer, "post")
    with evaluating(subject.model), torch.no_grad():
        for x, _ in subject.data.train.batches(subject.batch_size, order=order):
            inputs = x.to(subject.device)
            if not layer:
                yield inputs
            else:
                yield capture(subject.model, inputs, [site], subject.trace).values[site]
