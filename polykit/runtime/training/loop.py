"""The training loop: seeded by epoch, so that a resumed training equals an undisturbed one."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polykit.errors import RunError, TrainingError
from polykit.runtime.objectives import task_loss
from polykit.runtime.passes.trace import evaluating
from polykit.runtime.pruning.masking import apply_mask, on_model
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.training.config import TrainingConfig
from polykit.runtime.training.lamb import Lamb
from polykit.runtime.training.pace import Pace
from polykit.runtime.training.state import State, read_state, write_state
from polykit.types import Data, Mask, Split

StepLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""The scalar that a step descends, from the model, inputs `[n, *shape]` and targets."""

CHECKPOINT_SECONDS = 5.0
"""How much work an interruption may cost."""

_log = logging.getLogger("polykit")


@dataclass(frozen=True)
class Epoch:
    """Losses after one epoch: the mean over its steps, and over the validation split."""

    epoch: int
    loss: float
    validation_loss: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class History:
    """What training gave: every epoch, and the one whose weights the model has now.

    `reached` is False if stop=loss was asked for and the loss was never reached.
    """

    epochs: tuple[Epoch, ...] = ()
    chosen: int = 0
    reached: bool = True


def train(
    model: nn.Module,
    data: Data,
    config: TrainingConfig,
    epochs: int,
    *,
    seed: int,
    device: torch.device,
    mask: Mask | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    loss: StepLoss | None = None,
) -> History:
    """Train `model` in place on `data.train`, in evaluation mode afterwards.

    A step descends `loss`, by default the task loss; validation measures the task loss in any
    case. Sample order and dropout come from streams of `seed` and the epoch. With a `mask` removed
    parameters stay zero. With a `checkpoint` path the state is saved there every few seconds, and
    training goes on from it if it exists; a damaged one is named, and training begins again.

    Raises TrainingError if the loss stops being a finite number.
    """
    model.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(parameters, config)
    progress = Progress(model, config)
    if checkpoint is not None and checkpoint.exists():
        _go_on(checkpoint, model, optimizer, progress)
    own = dict(model.named_parameters())
    pace = Pace(config, optimizer, model, own, len(data.train), epochs)
    kept = [(own[name], keep) for name, keep in on_model(model, mask).items()] if mask else []
    if mask is not None:
        apply_mask(model, mask)
    saved = time.monotonic()
    while len(progress.epochs) < epochs and not progress.done:
        number = len(progress.epochs) + 1
        order = torch.randperm(len(data.train), generator=generator(seed, "order", number))
        with seeded(seed, "epoch", number):
            pace.begin(number)
            mean = _one_epoch(model, data, config, pace, order, kept, device, loss)
        validation, accuracy = evaluate(model, data.validation, data.task, device)
        if not (math.isfinite(mean) and math.isfinite(validation)):
            raise not_finite(mean, validation, number, config.lr, seed)
        epoch = Epoch(number, mean, validation, accuracy)
        progress.add(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            write_state(checkpoint, _state(model, optimizer, progress))
            saved = time.monotonic()
    progress.choose()
    model.eval()
    return progress.history(epochs)


def _one_epoch(
    model: nn.Module,
    data: Data,
    config: TrainingConfig,
    pace: Pace,
    order: Tensor,
    kept: list[tuple[nn.Parameter, Tensor]],
    device: torch.device,
    loss: StepLoss | None,
) -> float:
    model.train()

    def task(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return task_loss(model(x), y, data.task, "mean")

    descend = loss or task
    total = torch.zeros((), device=device)
    count = 0
    try:
        for x, y in data.train.batches(config.batch_size, order=order):
            model.zero_grad(set_to_none=True)
            value = descend(model, x.to(device), y.to(device))
            value.backward()
            pace.step()
            for parameter, keep in kept:
                parameter.data.mul_(keep)
            total.add_(value.detach(), alpha=len(x))
            count += len(x)
    except (RuntimeError, ValueError, IndexError) as error:
        raise TrainingError(
            f"a training step failed: {error}. Check that the model's outputs fit the targets "
            f"({data.outputs} {'classes' if data.task == 'classification' else 'numbers'}); a last "
            f"batch of one sample fails under batch norm: choose another --batch-size"
        ) from error
    return float(total) / count


def evaluate(
    model: nn.Module,
    split: Split,
    task: str,
    device: torch.device,
    batch_size: int = 1024,
) -> tuple[float, float | None]:
    """Return mean loss and accuracy in [0, 1] (None for regression) over a split."""
    loss = correct = torch.zeros((), dtype=torch.double)
    count = 0
    with evaluating(model), torch.no_grad():
        for x, y in split.batches(batch_size):
            outputs, targets = model(x.to(device)), y.to(device)
            loss = loss + task_loss(outputs, targets, task).sum().cpu().double()
            if task == "classification":
                correct = correct + (outputs.argmax(1) == targets).sum().cpu()
            count += len(x)
    accuracy = float(correct) / count if task == "classification" else None
    return float(loss) / count, accuracy


def make_optimizer(
    parameters: Sequence[Tensor], config: TrainingConfig, *, stacked: bool = False
) -> torch.optim.Optimizer:
    """Return the optimiser that `config` asks for.

    `stacked` parameters are those of many networks, along a first axis.
    """
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "lamb":
        return Lamb(parameters, **common, stacked=stacked)
    common["fused"] = stacked or None  # False would switch foreach off on a GPU, too
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(parameters, **common)
    return torch.optim.Adam(parameters, **common)


def not_finite(loss: float, validation: float, epoch: int, lr: float, seed: int) -> TrainingError:
    """Return the error for a training or validation loss that is no number any more."""
    which = "loss" if not math.isfinite(loss) else "validation loss"
    value = loss if not math.isfinite(loss) else validation
    return TrainingError(
        f"the {which} became {value} in epoch {epoch} (seed {seed}); try a smaller lr than {lr:g}, "
        f"or look for extreme values in the data"
    )


class Progress:
    """How far one network's training is: its epochs, and the weights worth keeping."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        self.best: dict[str, Tensor] = {}
        self.epochs: list[Epoch] = []

    @property
    def done(self) -> bool:
        """Whether the loss to stop at is reached."""
        reached = self.epochs and self.epochs[-1].validation_loss <= self._config.stop_loss
        return self._config.stop == "loss" and bool(reached)

    @property
    def chosen(self) -> int:
        """The epoch whose weights are kept, 0 before any."""
        if self._config.stop != "best" or not self.epochs:
            return len(self.epochs)
        return min(self.epochs, key=lambda epoch: epoch.validation_loss).epoch

    def add(self, epoch: Epoch) -> None:
        """Take note of an epoch, whose weights the network has now."""
        self.epochs.append(epoch)
        if self._config.stop == "best" and self.chosen == epoch.epoch:
            self.best = copy.deepcopy(self._model.state_dict())

    def choose(self) -> None:
        """Give the network the weights of the chosen epoch."""
        if self.best:
            self._model.load_state_dict(self.best)

    def history(self, asked: int) -> History:
        """Return what training gave, where `asked` epochs were asked for."""
        reached = self._config.stop != "loss" or self.done or asked == 0
        return History(tuple(self.epochs), self.chosen, reached)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> State:
    """Gather all that must survive an interruption between two epochs."""
    slots = {
        number: {slot: value for slot, value in values.items() if isinstance(value, Tensor)}
        for number, values in optimizer.state_dict()["state"].items()
    }
    return State(model.state_dict(), progress.best, slots, [asdict(e) for e in progress.epochs])


def _go_on(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Put everything back as `_state` found it; leave it as it is where the file is damaged."""
    try:
        state = read_state(path)
    except RunError as error:
        _log.warning("%s; this training begins again", error)
        return
    model.load_state_dict(state.model)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state.optimizer, "param_groups": groups})
    progress.best = dict(state.best)
    progress.epochs = [Epoch(**epoch) for epoch in state.epochs]
