"""From a network's inputs back to pictures that people can look at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polykit.errors import DataError


@dataclass(frozen=True)
class Denormalise:
    """Undoes `(x − mean) / std`: inputs `[n, c, h, w]` become RGB `[n, 3, h, w]` in [0, 1].

    Raises DataError for inputs that are no pictures.

    >>> import torch
    >>> show = Denormalise((0.5,), (0.5,))
    >>> show(torch.tensor([-1.0, 0.0, 3.0]).view(1, 1, 1, 3))[0, 2]
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x · std + mean`, cut to [0, 1]."""
        _check(x)
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return _rgb((x * std + mean).clamp(0, 1))


def stretch(x: Tensor) -> Tensor:
    """Stretch each picture `[n, c, h, w]` to [0, 1] by its smallest and largest value, as RGB.

    What to show where nothing is known about the inputs' range. A constant picture becomes black.
    Raises DataError for inputs that are no pictures.

    >>> import torch
    >>> stretch(torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 1, 3))[0, 0]
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    _check(x)
    low, high = (values.view(-1, 1, 1, 1) for values in x.flatten(1).aminmax(dim=1))
    return _rgb((x - low) / (high - low).masked_fill(high == low, 1))


def _check(x: Tensor) -> None:
    if x.dim() != 4:
        raise DataError(
            f"inputs of shape {'×'.join(map(str, x.shape[1:]))} are no pictures of channels × "
            f"height × width, so they cannot be shown"
        )


def _rgb(x: Tensor) -> Tensor:
    """Three channels: as they are, or else the channels' mean as grey."""
    return x if x.shape[1] == 3 else x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
