"""Data by name, and the truth that comes with it."""

from __future__ import annotations

from pathlib import Path

from polykit.errors import DataError
from polykit.registry import Registry
from polykit.runtime.files import write_bytes
from polykit.runtime.store import tensor_bytes
from polykit.types import Data
from polykit.workflows.plugins import load_data as load


def load_data(spec: str, registry: Registry) -> Data:
    """Load a dataset by what one writes on the command line."""
    return load(registry.create("dataset", spec))


def save_truth(data: Data, path: Path) -> None:
    """Write the ground truth of data as safetensors, whole or not at all.

    Raises DataError where the data has none.
    """
    if not data.truth:
        raise DataError(
            f"{data.name} has no ground truth to save; datasets that do: feature-model, toy"
        )
    write_bytes(path, tensor_bytes(data.truth))
