"""Writes files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from polykit.errors import RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it into place.

    Raises RunError, with the target as it was before, where that fails.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(explain(path, error)) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; raise RunError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def explain(path: Path, error: OSError) -> str:
    """Say in words what went wrong with a path, and what to do."""
    if error.errno == errno.ENOSPC:
        return (
            f"no space left on the disk while writing {path}; nothing is half-written. Free some "
            f"space, then go on with: polykit run --resume RUN"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} is not writable ({error.strerror}); choose another place with --out"
    return f"{path} cannot be written: {error.strerror or error}"
