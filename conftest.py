"""What all tests begin with, the examples in docstrings included."""

from __future__ import annotations

import os

import pytest

# The networks of tests are tiny: threads only cost time, very much of it on busy cores. Set before
# anything imports torch, and handed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A width that whoever runs the tests asked for (pytest-xdist does) is not what the tests look at.
os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let no test's numbers depend on which tests ran before it."""
    import torch

    torch.manual_seed(0)
