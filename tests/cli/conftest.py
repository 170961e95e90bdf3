from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from polykit.cli import app


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def polykit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            app(list(arguments), prog_name="polykit")
        code = left.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, *capsys.readouterr())

    return run
