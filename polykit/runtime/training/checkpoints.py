"""Reads model weights from files, without ever running code from them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from polykit.errors import ModelError


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a `.safetensors` file, or a `.pt`/`.pth` file of plain tensors, into `model`.

    Raises ModelError for files that are missing, damaged, hold pickled objects, do not fit the
    model, or hold NaN; the model is unchanged then.
    """
    state = _read(path)
    own = model.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or extra:
        parts = [f"lacks {sorted(missing)[:3]}"] if missing else []
        parts += [f"has the unknown {sorted(extra)[:3]}"] if extra else []
        raise ModelError(f"{path} is not for {type(model).__name__}: it {' and '.join(parts)}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ModelError(
                f"{path} does not fit: {name} is {tuple(value.shape)} there and "
                f"{tuple(own[name].shape)} in the model; check the model's options"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity; the training had diverged")
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds pickled objects, which could run any code, and is refused; save the "
            f"weights alone: torch.save(model.state_dict(), …) or a .safetensors file"
        ) from error
    except Exception as error:  # torch's reader raises whatever a damaged file leads to
        raise ModelError(f"checkpoint {path} is damaged or of another format: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(f"{path} is no state dict: it must map parameter names to tensors")
    return content
