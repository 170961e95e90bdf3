"""Activations on disk, in shards: written picture by picture, read again one shard at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polykit.errors import RunError, UsageError

FILE = "activations.safetensors"


@dataclass(frozen=True)
class Chunk:
    """Some pictures: `index [n]` in the split, `label [n]` and `values [n, units]`.

    The label is −1 where the data have no classes. Values are float32, whatever the disk holds.
    """

    index: Tensor
    label: Tensor
    values: Tensor


def to_tensors(
    index: Tensor, label: Tensor, values: dict[str, Tensor], precision: str
) -> dict[str, Tensor]:
    """Return what one shard's file holds: `index`, `label` and `values/LAYER` of each layer.

    `precision` is float32 or float16; what lies beyond float16's range is cut to its ends.
    """
    wanted = torch.float16 if precision == "float16" else torch.float32
    most = torch.finfo(wanted).max
    kept = {f"values/{layer}": v.clamp(-most, most).to(wanted) for layer, v in values.items()}
    return {"index": index.long(), "label": label.long(), **kept}


@dataclass(frozen=True)
class Shards:
    """One layer's activations, in files whose pictures follow each other.

    Iterating yields one `Chunk` per file; no more than one file is in memory at a time.
    """

    paths: tuple[Path, ...]
    layer: str

    def __iter__(self) -> Iterator[Chunk]:
        for path in self.paths:
            try:
                with safe_open(path, framework="pt") as file:
                    values = file.get_tensor(f"values/{self.layer}").float()
                    yield Chunk(file.get_tensor("index"), file.get_tensor("label"), values)
            except (OSError, SafetensorError) as error:
                raise RunError(
                    f"{path} cannot be read: {error}; take the cell {path.parent.name} away and "
                    f"resume the run"
                ) from error

    def gather(self, pictures: Tensor) -> Chunk:
        """Return the chosen `pictures [n]`, in that order; raise UsageError for one not there."""
        wanted, back = pictures.unique(return_inverse=True)
        parts = [
            Chunk(chunk.index[here], chunk.label[here], chunk.values[here])
            for chunk in self
            for here in [torch.isin(chunk.index, wanted)]
        ]
        found = Chunk(
            torch.cat([part.index for part in parts]),
            torch.cat([part.label for part in parts]),
            torch.cat([part.values for part in parts]),
        )
        if len(found.index) != len(wanted):
            missing = sorted(set(wanted.tolist()) - set(found.index.tolist()))
            raise UsageError(f"the run has no activations of picture {missing[0]}")
        return Chunk(found.index[back], found.label[back], found.values[back])


@dataclass(frozen=True)
class Summary:
    """What one pass over a layer's activations tells of its units.

    `count` pictures in all; per unit `mean`, `std` (over all pictures), `most` and `fires`, the
    share of pictures above 0. `pictures[unit]` are the indices of the unit's top pictures,
    strongest first, and `values[unit]` its values there.
    """

    count: int
    mean: Tensor
    std: Tensor
    most: Tensor
    fires: Tensor
    pictures: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def summarise(
    chunks: Iterable[Chunk], units: Sequence[int], top: int, *, positive: bool
) -> Summary:
    """Pass once over a layer's activations.

    Find the `top` pictures of each of `units`, only those with values above 0 if `positive`, and
    mean and spread of every unit of the layer. Equal values go by the pictures' order, so the
    result does not depend on how they are cut into chunks. Memory: one chunk, and `top` values
    per unit. Without any picture `count` is 0 and the rest empty.

    >>> chunk = Chunk(torch.arange(3), torch.zeros(3), torch.tensor([[1.0], [3.0], [-2.0]]))
    >>> summarise([chunk], [0], 3, positive=True).pictures
    (tensor([1, 0]),)
    """
    columns = torch.tensor(list(units))
    best, where = torch.empty(0, len(columns)), torch.empty(0, len(columns), dtype=torch.long)
    count, mean, square = 0, torch.zeros(0), torch.zeros(0)
    most, positives = torch.zeros(0), torch.zeros(0)
    for chunk in chunks:
        if not len(chunk.index):
            continue
        values = chunk.values.double()
        if count == 0:
            mean, square = (torch.zeros(values.shape[1], dtype=torch.double) for _ in range(2))
            most, positives = torch.full_like(mean, -torch.inf), torch.zeros_like(mean)
        # Chan, Golub & LeVeque 1979: means and squared deviations of two parts, joined
        ours, theirs = count, len(values)
        count += theirs
        shift = values.mean(0) - mean
        square += (values - values.mean(0)).square().sum(0) + shift**2 * (ours * theirs / count)
        mean += shift * (theirs / count)
        most = torch.maximum(most, values.amax(0))
        positives += (values > 0).sum(0)
        best = torch.cat([best, chunk.values[:, columns]])
        where = torch.cat([where, chunk.index[:, None].expand(-1, len(columns))])
        best, order = best.sort(dim=0, descending=True, stable=True)
        best, where = best[:top].clone(), where.gather(0, order[:top])  # no view of the whole
    counts = (best > 0).sum(0).tolist() if positive else [len(best)] * len(columns)
    return Summary(
        count,
        mean,
        (square / max(count, 1)).sqrt(),
        most,
        positives / max(count, 1),
        tuple(where[:n, column] for column, n in enumerate(counts)),
        tuple(best[:n, column] for column, n in enumerate(counts)),
    )


def as_array(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return `values [n, d]` as float64 in NumPy, which clustering computes with."""
    return values.double().numpy()
