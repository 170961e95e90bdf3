"""Pictures as files, and what each pixel did drawn over them."""

from __future__ import annotations

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from polykit.errors import UsageError

LOSSLESS = 32 * 32
"""Pixels up to which a picture stays as it is; larger ones are photographs, which JPEG suits."""

_FOR = torch.tensor([0.902, 0.333, 0.0])
_AGAINST = torch.tensor([0.0, 0.447, 0.898])
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114])
_DIMMED = 0.55
"""Share of a picture's contrast that stays under an overlay."""


def as_bytes(picture: Tensor) -> Tensor:
    """Turn a picture `[3, h, w]` in [0, 1] into uint8; what is outside is cut off.

    >>> as_bytes(torch.tensor([[[0.5]], [[1.5]], [[-1.0]]])).flatten().tolist()
    [128, 255, 0]
    """
    return (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def png(picture: Tensor) -> bytes:
    """Encode a picture `[3, h, w]` of uint8 as PNG; the same picture gives the same bytes.

    Raises UsageError for anything else.
    """
    return _encoded(picture, "PNG", optimize=True)


def jpeg(picture: Tensor, quality: int = 82) -> bytes:
    """Encode a picture `[3, h, w]` of uint8 as JPEG; the same picture gives the same bytes."""
    return _encoded(picture, "JPEG", quality=quality, optimize=True)


def _encoded(picture: Tensor, kind: str, **options: object) -> bytes:
    if picture.dtype != torch.uint8 or picture.dim() != 3 or picture.shape[0] != 3:
        raise UsageError(
            f"a picture is uint8 [3, h, w], not {picture.dtype} {list(picture.shape)}; "
            f"as_bytes makes one"
        )
    buffer = BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, kind, **options)
    return buffer.getvalue()


def overlay(picture: Tensor, pixels: Tensor) -> Tensor:
    """Draw what each pixel `[h, w]` did over a picture `[3, h, w]` in [0, 1].

    The picture turns grey; orange is for what raised the value, blue for what lowered it. Full
    colour is the 99th percentile of |pixels|, so that one pixel does not hide all others.

    >>> drawn = overlay(torch.ones(3, 1, 2), torch.tensor([[1.0, 0.0]]))
    >>> [round(share, 3) for share in drawn[:, 0, 0].tolist()]
    [0.902, 0.333, 0.0]
    """
    grey = (picture * _LUMINANCE.to(picture)[:, None, None]).sum(0, keepdim=True)
    ground = (0.5 + _DIMMED * (grey - 0.5)).expand(3, -1, -1)
    most = float(torch.quantile(pixels.abs().flatten().double(), 0.99)) or 1.0
    share = (pixels / most).clamp(-1, 1)
    color = torch.where(
        share[None] > 0,
        _FOR.to(picture)[:, None, None],
        _AGAINST.to(picture)[:, None, None],
    )
    strength = share.abs()[None]
    return ground * (1 - strength) + color * strength
