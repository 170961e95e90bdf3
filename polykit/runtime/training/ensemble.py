"""Trains many small networks as one: their parameters stacked, one step for all.

A small network's step is mostly overhead, which a batch of networks shares. Each member sees the
samples, the dropout and the mask that it would see alone, so its company changes nothing but
rounding. Networks that cannot be stacked are trained one by one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from polykit.errors import TrainingError
from polykit.runtime.objectives import task_loss
from polykit.runtime.pruning.masking import apply_mask, on_model
from polykit.runtime.samples.splits import TensorSplit
from polykit.runtime.seeds import generator
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.dropout import Dropouts, replace_dropout
from polykit.runtime.training.loop import (
    Epoch,
    History,
    Progress,
    make_optimizer,
    not_finite,
    train,
)
from polykit.runtime.training.pace import Pace
from polykit.runtime.training.stacked import stacked
from polykit.types import Data, Mask

EVALUATION_ROWS = 2**8
"""Validation samples of each member in one forward pass."""

_PLAIN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Dropout,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
"""What a network of another width may consist of: each unit is computed by itself, in order."""


@dataclass(frozen=True)
class Job:
    """One network to train in place, on which data, from which seed, under which mask.

    `checkpoint` is where its state is kept meanwhile, if it trains alone.
    """

    model: nn.Module
    data: Data
    seed: int
    mask: Mask | None = None
    checkpoint: Path | None = None


def train_together(
    jobs: Sequence[Job],
    config: TrainingConfig,
    epochs: int,
    *,
    device: torch.device,
    together: int = 32,
    on_epoch: Callable[[int, Epoch], None] | None = None,
) -> list[History]:
    """Train every job's network in place, as `runtime.training.train` does; return the histories.

    At most `together` networks of one kind make up an ensemble; in plain chains of layers they may
    differ in widths. `on_epoch(index, epoch)` is called with the job's place after each epoch of
    its ensemble, when its network holds the weights of that epoch. Results differ from training
    one by one by rounding only: about 5e-7 after an epoch, and what training makes of it later.

    Memory: parameters, gradients and the optimiser's state of one ensemble, the data of its
    members on `device`, and one batch for each.

    Raises TrainingError if a loss stops being a finite number.
    """
    histories: dict[int, History] = {}
    for places in _ensembles(jobs, together):
        tells = [partial(on_epoch, place) if on_epoch else None for place in places]
        if len(places) == 1:
            job = jobs[places[0]]
            found = [
                train(
                    job.model,
                    job.data,
                    config,
                    epochs,
                    seed=job.seed,
                    device=device,
                    mask=job.mask,
                    checkpoint=job.checkpoint,
                    on_epoch=tells[0],
                )
            ]
        else:
            members = [jobs[place] for place in places]
            found = _Ensemble(members, config, epochs, device).train(tells)
        histories |= zip(places, found, strict=True)
    return [histories[place] for place in range(len(jobs))]


def _ensembles(jobs: Sequence[Job], together: int) -> Iterator[list[int]]:
    """Sort jobs into groups that can be stacked, those of a size beside each other."""
    kinds: dict[object, list[int]] = {}
    for place, job in enumerate(jobs):
        kinds.setdefault(_kind(job, place), []).append(place)
    for places in kinds.values():
        places.sort(key=lambda place: (-_size(jobs[place].model), place))
        size = math.ceil(len(places) / math.ceil(len(places) / together))
        yield from (places[i : i + size] for i in range(0, len(places), size))


def _kind(job: Job, place: int) -> object:
    """Equal for networks that can be stacked; unlike all others where one cannot be."""
    model, split = job.model, job.data.train
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    if not (
        isinstance(split, TensorSplit)
        and isinstance(job.data.validation, TensorSplit)
        and all(p.requires_grad for p in model.parameters())
        and not any(True for _ in model.buffers())  # running statistics are the network's own
    ):
        return place
    chain = isinstance(model, nn.Sequential) and all(
        type(module) in _PLAIN and getattr(module, "groups", 1) == 1 for module in model
    )
    if dropouts and not chain:  # which dropout is called first is known in a chain only
        return place
    state = model.state_dict()
    shapes = tuple((name, value.dim() if chain else value.shape) for name, value in state.items())
    # A module says of itself all but its widths, by which chains may differ.
    layers = tuple(_without_widths(m) if chain else repr(m) for m in model.children())
    return (
        type(model),
        layers,
        shapes,
        job.data.task,
        tuple(split.x.shape),
        tuple(split.y.shape),
        tuple(job.data.validation.y.shape),
    )


def _without_widths(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return f"Linear({module.bias is not None})"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        same = (module.kernel_size, module.stride, module.padding, module.dilation)
        return f"{type(module).__name__}{(*same, module.padding_mode, module.bias is not None)}"
    return repr(module)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class _Ensemble:
    """Networks of one kind, stacked along a first axis; narrower ones are padded with zeros."""

    def __init__(
        self, jobs: Sequence[Job], config: TrainingConfig, epochs: int, device: torch.device
    ) -> None:
        self._jobs, self._config, self._device = jobs, config, device
        self._epochs = epochs
        for job in jobs:
            job.model.to(device)
            if job.mask is not None:
                apply_mask(job.model, job.mask)
        self._template = copy.deepcopy(jobs[0].model)
        noises = replace_dropout(self._template)
        first = next(jobs[0].data.train.batches(1))[0].to(device)
        self._dropouts = Dropouts(noises, [job.model for job in jobs], first)
        self._forward = stacked(self._template)
        own = [dict(job.model.named_parameters()) for job in jobs]
        self._parameters = {
            name: _stack([parameters[name].detach() for parameters in own]).requires_grad_()
            for name in own[0]
        }
        self._kept = self._keep()
        self._optimizer = make_optimizer(list(self._parameters.values()), config, stacked=True)
        self._progress = [Progress(job.model, config) for job in jobs]
        worlds = list({id(job.data): job.data for job in jobs}.values())
        place = {id(data): index for index, data in enumerate(worlds)}
        self._world = torch.tensor([place[id(job.data)] for job in jobs], device=device)
        self._train = _stacked_split([data.train for data in worlds], device)
        self._validation = _stacked_split([data.validation for data in worlds], device)
        self._pace = Pace(
            config,
            self._optimizer,
            self._template,
            self._parameters,
            self._train[0].shape[1],
            epochs,
        )

    def train(self, tells: Sequence[Callable[[Epoch], None] | None]) -> list[History]:
        for number in range(1, self._epochs + 1):
            if all(progress.done for progress in self._progress):
                break
            losses = self._one_epoch(number)
            validation, accuracy = self._evaluate()
            self._write_back()
            for member, progress in enumerate(self._progress):
                if progress.done:
                    continue
                loss, held_out = losses[member], validation[member]
                if not (math.isfinite(loss) and math.isfinite(held_out)):
                    seed = self._jobs[member].seed
                    raise not_finite(loss, held_out, number, self._config.lr, seed)
                epoch = Epoch(number, loss, held_out, accuracy[member])
                progress.add(epoch)
                if (tell := tells[member]) is not None:
                    tell(epoch)
        for progress, job in zip(self._progress, self._jobs, strict=True):
            progress.choose()
            job.model.eval()
        return [progress.history(self._epochs) for progress in self._progress]

    def _keep(self) -> dict[str, Tensor]:
        """What stays zero otherwise: 1 where a parameter is a member's own and not masked."""
        masks = [dict(on_model(j.model, j.mask)) if j.mask else {} for j in self._jobs]
        kept = {}
        for name, joined in self._parameters.items():
            parts = []
            for job, mask in zip(self._jobs, masks, strict=True):
                shape = job.model.get_parameter(name).shape
                parts.append(mask[name] if name in mask else joined.new_ones(shape).bool())
            keep = _stack(parts)
            if not bool(keep.all()):
                kept[name] = keep.to(joined.dtype)
        return kept

    def _one_epoch(self, number: int) -> list[float]:
        self._template.train()
        self._pace.begin(number)
        x, y = self._train
        samples, seeds = x.shape[1], [job.seed for job in self._jobs]
        orders = [torch.randperm(samples, generator=generator(s, "order", number)) for s in seeds]
        draws = [generator(seed, "epoch", number) for seed in seeds]
        totals = torch.zeros(len(seeds), device=self._device)
        rows = torch.stack(orders).to(self._device) + self._world.unsqueeze(1) * samples
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        for chosen in rows.split(self._config.batch_size, dim=1):
            self._dropouts.draw(draws, chosen.shape[1])
            self._optimizer.zero_grad(set_to_none=True)
            try:
                outputs = self._forward(self._parameters, x[chosen])
                losses = self._losses(outputs, y[chosen]).mean(1)
                losses.sum().backward()
            except (RuntimeError, ValueError, IndexError) as error:
                raise TrainingError(
                    f"a training step of {len(self._jobs)} networks together failed: {error}. "
                    f"Train them one by one: ensemble=1"
                ) from error
            self._pace.step()
            with torch.no_grad():
                for name, keep in self._kept.items():
                    self._parameters[name].mul_(keep)
                totals.add_(losses.detach(), alpha=chosen.shape[1])
        return [float(total) for total in totals / samples]

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each member on each of its samples `[members, n]`."""
        task = self._jobs[0].data.task
        each = task_loss(outputs.flatten(0, 1), targets.flatten(0, 1), task)
        return each.view(targets.shape[:2])

    @torch.no_grad()
    def _evaluate(self) -> tuple[list[float], list[float | None]]:
        """Validation loss and accuracy of each member."""
        self._template.eval()
        x, y = self._validation
        known, members = self._jobs[0].data.task == "classification", len(self._jobs)
        loss = torch.zeros(members, dtype=torch.double)
        correct = torch.zeros_like(loss)
        for part in torch.arange(x.shape[1], device=self._device).split(EVALUATION_ROWS):
            inputs, targets = x[:, part][self._world], y[:, part][self._world]
            found = self._forward(self._parameters, inputs)
            loss += self._losses(found, targets).sum(1).cpu().double()
            if known:
                correct += (found.argmax(2) == targets).sum(1).cpu()
        mean, share = loss / x.shape[1], correct / x.shape[1]
        return mean.tolist(), share.tolist() if known else [None] * members

    @torch.no_grad()
    def _write_back(self) -> None:
        """Give every network that still trains its weights."""
        for member, job in enumerate(self._jobs):
            if self._progress[member].done:
                continue
            for name, own in job.model.named_parameters():
                own.copy_(_part(self._parameters[name][member], own.shape))


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors along a new first axis, padded with zeros to the largest."""
    if len({part.shape for part in parts}) == 1:
        return torch.stack(list(parts))
    sizes = [max(lengths) for lengths in zip(*(part.shape for part in parts), strict=True)]
    return torch.stack([_padded(part, sizes) for part in parts])


def _padded(part: Tensor, sizes: Sequence[int]) -> Tensor:
    room = [size - length for size, length in zip(sizes, part.shape, strict=True)]
    return pad(part, [n for length in reversed(room) for n in (0, length)])


def _part(stacked: Tensor, shape: torch.Size) -> Tensor:
    """A member's own part of what was padded."""
    return stacked[tuple(slice(length) for length in shape)]


def _stacked_split(splits: Sequence[object], device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all worlds `[worlds, n, …]`."""
    tensors = [split for split in splits if isinstance(split, TensorSplit)]
    if len(tensors) == 1:
        return tensors[0].x.unsqueeze(0).to(device), tensors[0].y.unsqueeze(0).to(device)
    x, y = torch.stack([s.x for s in tensors]), torch.stack([s.y for s in tensors])
    return x.to(device), y.to(device)
