"""The training loop: seeded by epoch, so that a resumed training equals an undisturbed one."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from polykit.errors import TrainingError
from polykit.runtime.files import write_bytes
from polykit.runtime.masking import apply_mask, on_model
from polykit.runtime.objectives import task_loss
from polykit.runtime.seeds import generator, seeded
from polykit.runtime.trace import evaluating
from polykit.runtime.training_config import TrainingConfig
from polykit.types import Data, Mask, Split

CHECKPOINT_SECONDS = 5.0
"""How much work an interruption may cost."""


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
) -> History:
    """Train `model` in place on `data.train`, in evaluation mode afterwards.

    Sample order and dropout come from streams of `seed` and the epoch. With a `mask` removed
    parameters stay zero. With a `checkpoint` path the state is saved there every few seconds, and
    training goes on from it if it exists.

    Raises TrainingError if the loss stops being a finite number.
    """
    model.to(device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(parameters, config)
    state = _State(model, optimizer, config)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint)
    own = dict(model.named_parameters())
    kept = [(own[name], keep) for name, keep in on_model(model, mask).items()] if mask else []
    if mask is not None:
        apply_mask(model, mask)
    saved = time.monotonic()
    while len(state.epochs) < epochs and not state.done:
        number = len(state.epochs) + 1
        order = torch.randperm(len(data.train), generator=generator(seed, "order", number))
        with seeded(seed, "epoch", number):
            loss = _one_epoch(model, data, config, optimizer, order, kept, device)
        validation, accuracy = evaluate(model, data.validation, data.task, device)
        if not (math.isfinite(loss) and math.isfinite(validation)):
            raise TrainingError(
                f"the loss became {loss} in epoch {number}; try a smaller --lr than {config.lr:g}, "
                f"or look for extreme values in the data"
            )
        epoch = Epoch(number, loss, validation, accuracy)
        state.add(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            write_bytes(checkpoint, state.to_bytes())
            saved = time.monotonic()
    state.choose()
    model.eval()
    return History(
        tuple(state.epochs), state.chosen, config.stop != "loss" or state.done or epochs == 0
    )


def _one_epoch(
    model: nn.Module,
    data: Data,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    order: Tensor,
    kept: list[tuple[nn.Parameter, Tensor]],
    device: torch.device,
) -> float:
    model.train()
    total = torch.zeros((), device=device)
    count = 0
    try:
        for x, y in data.train.batches(config.batch_size, order=order):
            optimizer.zero_grad(set_to_none=True)
            loss = task_loss(model(x.to(device)), y.to(device), data.task, "mean")
            loss.backward()
            optimizer.step()
            for parameter, keep in kept:
                parameter.data.mul_(keep)
            total.add_(loss.detach(), alpha=len(x))
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
            loss = loss + task_loss(outputs, targets, task).sum().double().cpu()
            if task == "classification":
                correct = correct + (outputs.argmax(1) == targets).sum().cpu()
            count += len(x)
    accuracy = float(correct) / count if task == "classification" else None
    return float(loss) / count, accuracy


def _optimizer(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(parameters, **common)
    return torch.optim.Adam(parameters, **common)


class _State:
    """All that must survive an interruption between two epochs."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._best: dict[str, Tensor] = {}
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
        self.epochs.append(epoch)
        if self._config.stop == "best" and self.chosen == epoch.epoch:
            self._best = copy.deepcopy(self._model.state_dict())

    def choose(self) -> None:
        if self._best:
            self._model.load_state_dict(self._best)

    def to_bytes(self) -> bytes:
        tensors = {f"model/{name}": value for name, value in self._model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self._best.items()}
        for index, slots in self._optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{slot}"] = value
        plain = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return save(plain, {"epochs": json.dumps([asdict(epoch) for epoch in self.epochs])})

    def load(self, path: Path) -> None:
        content = path.read_bytes()
        tensors = load(content)
        self._model.load_state_dict(_part(tensors, "model/"))
        self._best = _part(tensors, "best/")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer/").items():
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        self.epochs = [Epoch(**epoch) for epoch in json.loads(header["__metadata__"]["epochs"])]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
