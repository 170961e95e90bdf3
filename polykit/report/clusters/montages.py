"""The pictures of a unit's clusters, as the run kept them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from polykit.errors import RunError
from polykit.report import words
from polykit.report.images import Image, image
from polykit.runtime.store import RunStore, SavedRun

NOISE = -1
"""The number that stands for pictures of no cluster."""


@dataclass(frozen=True)
class Montage:
    """A cluster's heading, what to know about it, and its pictures, the strongest first."""

    title: str
    note: str
    images: tuple[Image, ...]


class Album:
    """The thumbnails of a run, with what is known about each picture."""

    def __init__(self, run: SavedRun) -> None:
        self._thumbnails = _thumbnails(run)
        self._encoded: dict[int, Image] = {}
        table = run.tables["pictures"].drop_duplicates("picture").set_index("picture")
        self._texts = {
            int(number): _text(int(number), str(row["class"]), str(row["source"]))
            for number, row in zip(table.index, table.to_dict("records"), strict=True)
        }

    def show(self, picture: int, more: str = "") -> Image | None:
        """Return a picture's thumbnail, described; None if the run has none."""
        if picture not in self._thumbnails:
            return None
        if picture not in self._encoded:
            text = self._texts.get(picture, f"picture {picture}")
            self._encoded[picture] = image(self._thumbnails[picture], text)
        plain = self._encoded[picture]
        return replace(plain, alt=f"{plain.alt}, {more}") if more else plain


def montage(album: Album, cluster: pd.Series, members: pd.DataFrame, most: int) -> Montage:
    """Return what to show of one row of the table `clusters`, given the rows of its members.

    The `most` strongest are shown: the run may have further thumbnails, for the sake of other
    units.
    """
    shown = []
    for member in members.sort_values("rank").head(most).to_dict("records"):
        value = words.number(float(member["activation"]))
        picture = album.show(int(member["picture"]), f"activation {value}")
        shown += [picture] if picture else []
    number, size = int(cluster["cluster"]), int(cluster["size"])
    title = "In no cluster" if number == NOISE else f"Cluster {number}"
    return Montage(title, _note(cluster, size, len(shown)), tuple(shown))


def _note(cluster: pd.Series, size: int, shown: int) -> str:
    pictures = f"{size} picture{'' if size == 1 else 's'}"
    parts = [pictures if shown in (0, size) else f"{pictures}, the strongest {shown} shown"]
    named = "name" if cluster["name"] else "class"
    share = cluster["name_purity" if named == "name" else "purity"]
    if cluster[named] and pd.notna(share):
        parts.append(f"{100 * float(share):.0f} % are “{cluster[named]}”")
    if pd.notna(cluster["stability"]):
        parts.append(f"stability {words.number(float(cluster['stability']))}")
    if pd.notna(cluster["activation"]):
        parts.append(f"mean activation {words.number(float(cluster['activation']))}")
    return f"{'; '.join(parts)}."


def medoid(album: Album, cluster: pd.Series) -> Image | None:
    """Return the picture in the middle of a cluster."""
    if int(cluster["cluster"]) == NOISE:
        return None
    return album.show(int(cluster["medoid"]), f"medoid of cluster {int(cluster['cluster'])}")


def _thumbnails(run: SavedRun) -> Mapping[int, Tensor]:
    store = RunStore(run.path)
    if not (store.cell("pictures") / "thumbnails.safetensors").is_file():
        return {}
    found = store.read_tensors("pictures", "thumbnails.safetensors")
    if not all(name.isdigit() and _shown(picture) for name, picture in found.items()):
        raise RunError(f"the thumbnails of {run.path} are damaged: they hold something else")
    return {int(name): picture for name, picture in found.items()}


def _shown(picture: Tensor) -> bool:
    right = picture.dtype == torch.uint8 and picture.dim() == 3 and picture.shape[0] == 3
    return right and picture.numel() > 0


def _text(number: int, kind: str, source: str) -> str:
    name = f"picture {number}"
    about = [part for part in (f"class {kind}" if kind else "", source) if part]
    return f"{name} ({', '.join(about)})" if about else name
