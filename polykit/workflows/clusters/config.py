"""The options of `clusters`: the one place of their names, bounds and defaults."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from polykit.runtime.training.config import TrainingConfig
from polykit.workflows.config import PluginsConfig, command_line

FLAGS = {
    "dataset": "--data",
    "layers": "--layer",
    "units": "--unit",
    "options": "-o",
}
"""Command line flags that are not simply the field's name."""


class ClustersConfig(TrainingConfig, PluginsConfig):
    """Which units to look at, on which pictures, and how to cluster. Immutable."""

    model: str = Field("convnet", description="model plugin, torchvision name, or module:factory")
    dataset: str = Field("digits", description="dataset plugin, such as imagefolder:PATH")
    checkpoint: str | None = Field(None, description="weights to load: .safetensors or .pt")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the weights and of every draw")
    epochs: int | None = Field(
        None, ge=0, description="training epochs; 30, or 0 for a network that comes trained"
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="the part of the data whose pictures are looked at"
    )
    layers: tuple[str, ...] = Field(
        (), description="layers to look at (globs); the last convolution, if none is named"
    )
    units: tuple[str, ...] = Field(
        ("*",), min_length=1, description="units of each layer, e.g. 0-255 or 15,167; * is all"
    )
    position: Literal["center", "max", "mean"] = Field(
        "center", description="where on its map a unit is read"
    )
    center: Literal["auto", "cone", "full"] = Field(
        "auto", description="read the centre by the cone of its receptive field, or the full map"
    )
    at: Literal["post", "pre"] = Field(
        "post", description="read behind the layer's nonlinearity, or before it"
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="how activations are kept on disk"
    )
    shard_size: int = Field(
        10_000, ge=1, description="pictures per shard; an interruption loses one shard at most"
    )
    eval_batch_size: int = Field(64, ge=1, description="pictures per chunk of the pass")
    top: int | None = Field(
        None,
        ge=2,
        le=5000,
        description="pictures per unit; a tenth of all, but from 100 to 600",
    )
    min_cluster_size: int | None = Field(
        None, ge=2, description="smallest cluster; a twentieth of the top pictures, at least 5"
    )
    min_samples: int = Field(
        5, ge=1, description="neighbours that make a place dense, the picture itself not counted"
    )
    scale: Literal["none", "standardise", "length"] = Field(
        "none", description="vectors as they are, standardised over all pictures, or of length 1"
    )
    pca: int = Field(0, ge=0, description="principal components to keep; 0: no projection")
    resamples: int = Field(20, ge=2, description="subsamples that a cluster must survive")
    nulls: int = Field(
        39, ge=19, description="single blobs to compare with; 1 / (nulls + 1) is the smallest p"
    )
    sensitivity: bool = Field(True, description="cluster with other settings, too, and compare")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores")
    montage: int = Field(16, ge=0, description="pictures of each cluster to keep as thumbnails")
    thumbnail: int = Field(64, ge=4, le=512, description="longest side of a thumbnail, in pixels")

    @field_validator("units")
    @classmethod
    def _numbers(cls, units: tuple[str, ...]) -> tuple[str, ...]:
        for text in units:
            if not re.fullmatch(r"(.+:)?(\*|\d+(-\d+)?(,\d+(-\d+)?)*)", text):
                raise ValueError(f"{text!r} names no units; write 15, 0-255, 1,4,7, * or LAYER:15")
        return tuple(dict.fromkeys(units))

    def command(self) -> str:
        """The command line that repeats the run: every option that is not its default.

        >>> ClustersConfig(layers=("features.10",), units=("0-15",), sensitivity=False).command()
        'polykit clusters --layer features.10 --unit 0-15 --no-sensitivity'
        """
        return command_line(self, ("polykit", "clusters"), FLAGS)
