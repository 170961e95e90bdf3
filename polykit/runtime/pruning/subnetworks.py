"""Small networks cut out of larger ones: what they are made of, and their files.

A file holds tensors, and a list of layers by name. Nothing but the kinds of layers named here is
made from it, so reading a file runs no code of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from polykit.errors import PolykitError, RunError
from polykit.types import Smaller, UnitRef

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CHANNELWISE = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU),
    *(nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus),
    *(nn.Softsign, nn.Tanh),
)
"""Layers without parameters that treat every unit alone and alike."""


class Shift(nn.Module):
    """Adds a constant of its own to each unit and place: `value [units, *map]`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.value = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x [n, units, *map]` + value."""
        return x + self.value


@dataclass(frozen=True)
class Extracted(Smaller):
    """A small network that gives one unit of a masked network, or its outputs.

    `model` takes `[n, *input_shape]` to the target's values before its nonlinearity, `[n, 1, *map]`
    or `[n, 1]`; to all outputs if there is no target. `units` are the kept units of each conv and
    linear layer, by the layer's name in the large network.
    """

    target: UnitRef | None = None
    input_shape: tuple[int, ...] = ()


def _settings(kind: type[nn.Module]) -> tuple[str, ...]:
    """Return the arguments that make another layer of this kind; torch lists them itself."""
    left_out = {"inplace", "return_indices"} | (
        {"min_val", "max_val"} if kind is nn.ReLU6 else set()
    )
    return tuple(name for name in getattr(kind, "__constants__", ()) if name not in left_out)


_CONVOLUTION = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "bias"),
)
_KINDS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    **{kind.__name__: (kind, _settings(kind)) for kind in (*CHANNELWISE, nn.Flatten)},
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    **{kind.__name__: (kind, _CONVOLUTION) for kind in CONVOLUTIONS},
    **{kind.__name__: (kind, ("num_features", "eps", "affine")) for kind in NORMS},
    "Shift": (Shift, ("shape",)),
}


def settings(module: nn.Module) -> dict[str, Any]:
    """Return the arguments that `make` takes to give another such layer; not its tensors."""
    given = {name: getattr(module, name) for name in _KINDS[type(module).__name__][1]}
    return given | ({"bias": given["bias"] is not None} if "bias" in given else {})


def make(kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a new layer of a kind that subnetworks may hold, on the meta device.

    So nothing is drawn and no memory taken before `load_state_dict(…, assign=True)` gives it
    tensors, which must have the shapes that the arguments say.

    Raises RunError for any other kind, and for arguments that are not that kind's.
    """
    maker, names = _KINDS.get(kind, (None, ()))
    if maker is None or set(arguments) != set(names):
        raise RunError(f"{kind!r} with {sorted(arguments)} is no layer of a subnetwork")
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in arguments.items()}
    with torch.device("meta"):
        return maker(**given)


def subnetwork_bytes(network: Extracted) -> bytes:
    """Serialise a network as safetensors: its tensors, kept units, and in the header its layers."""
    header = {
        "layers": [[type(layer).__name__, settings(layer)] for layer in network.model.children()],
        "target": None if network.target is None else str(network.target),
        "input_shape": network.input_shape,
        "parameters": network.parameters,
        "original": network.original,
        "notices": network.notices,
    }
    tensors = {f"model/{name}": value for name, value in network.model.state_dict().items()}
    tensors |= {f"units/{layer}": kept for layer, kept in network.units.items()}
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(whole, {"polykit.subnetwork": json.dumps(header, sort_keys=True)})


def load_subnetwork(path: Path | str) -> Extracted:
    """Read a network written from `subnetwork_bytes`, in evaluation mode, on the CPU.

    Runs no code from the file. Raises RunError if the file is no such network, or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["polykit.subnetwork"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state, units = (
            {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)}
            for part in ("model/", "units/")
        )
        shape = tuple(header["input_shape"])
        model = nn.Sequential(*(make(kind, given) for kind, given in header["layers"])).eval()
        model.load_state_dict(state, assign=True)
        model.requires_grad_(False)
        return Extracted(
            model=model,
            units=units,
            parameters=int(header["parameters"]),
            original=int(header["original"]),
            notices=tuple(map(str, header["notices"])),
            target=None if header["target"] is None else UnitRef.parse(header["target"]),
            input_shape=shape,
        )
    except PolykitError as error:
        raise RunError(f"{path} is no subnetwork: {error}") from error
    except Exception as error:  # the header can say anything
        raise RunError(f"{path} is no subnetwork: {type(error).__name__}: {error}") from error
