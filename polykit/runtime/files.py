"""Writes files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

from polykit.errors import DiskFullError, RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it into place.

    Raises RunError, with the target as it was before, where that fails.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path`, for what is not whole yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def is_temporary(path: Path) -> bool:
    """Whether a path is such a name."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}", path.name) is not None


def json_bytes(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Read a JSON file; raise RunError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def not_written(path: Path, error: OSError) -> RunError:
    """Make an error that says what went wrong with a path, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"no space left on the disk while writing {path}; nothing is half-written. Free some "
            f"space, then go on with: polykit run --resume RUN"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(
            f"{path} is not writable ({error.strerror}); choose another place with --out"
        )
    return RunError(f"{path} cannot be written: {error.strerror or error}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits; raise RunError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
