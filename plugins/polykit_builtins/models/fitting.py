"""Whether a network takes a dataset's inputs and gives the outputs it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polykit.errors import ModelError


def check_fit(
    model: nn.Module, name: str, input_shape: tuple[int, ...], outputs: int, remedy: str
) -> None:
    """Pass one zero sample in evaluation mode; raise ModelError where it is not accepted.

    The output must be one tensor `[1, outputs]`. Modules keep their training flags.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            result = model(torch.zeros(1, *input_shape))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{name} cannot take inputs of shape {'×'.join(map(str, input_shape))} "
            f"({type(error).__name__}: {reason}); {remedy}"
        ) from error
    finally:
        for module in training:
            module.training = True
    found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    if found != (1, outputs):
        raise ModelError(
            f"{name} gives {found} for one sample, but the data needs (1, {outputs}); {remedy}"
        )
