"""Where a training stands between two epochs, in a file, to go on from after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from polykit.errors import RunError
from polykit.runtime.files import write_bytes

_SEAL = hashlib.sha256().digest_size


@dataclass(frozen=True)
class State:
    """The weights that a model has and the best ones so far, the optimiser's tensors, all epochs.

    `optimizer[number][slot]` belongs to the parameter of that number; `epochs` are plain values.
    """

    model: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Tensor]]
    epochs: Sequence[Mapping[str, Any]]


def write_state(path: Path, state: State) -> None:
    """Write a state, whole or not at all, under the digest of its bytes."""
    tensors = {f"model/{name}": value for name, value in state.model.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for number, slots in state.optimizer.items():
        tensors |= {f"optimizer/{number}/{slot}": value for slot, value in slots.items()}
    plain = {name: value.detach().cpu().clone() for name, value in tensors.items()}
    content = save(plain, {"epochs": json.dumps([dict(epoch) for epoch in state.epochs])})
    write_bytes(path, hashlib.sha256(content).digest() + content)


def read_state(path: Path) -> State:
    """Read what `write_state` wrote; raise RunError for a file that is anything else."""
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    digest, content = sealed[:_SEAL], sealed[_SEAL:]
    if hashlib.sha256(content).digest() != digest:
        raise RunError(f"{path} is damaged: it is not what was written")
    tensors = load(content)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer/").items():
        number, _, slot = name.partition("/")
        slots.setdefault(int(number), {})[slot] = value
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    epochs = json.loads(header["__metadata__"]["epochs"])
    return State(_part(tensors, "model/"), _part(tensors, "best/"), slots, epochs)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
