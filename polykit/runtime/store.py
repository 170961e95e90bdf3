"""The run directory: cells written whole or not at all, then tables made from them.

Each cell keeps the digests of its files, and the run's record those of its tables, so that what a
disk or a copy has damaged is told from what was written.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save
from torch import Tensor

from polykit.errors import RunError
from polykit.runtime.files import (
    digest,
    is_temporary,
    json_bytes,
    not_written,
    read_json,
    temporary_name,
    write_bytes,
    write_json,
)
from polykit.runtime.tables import TABLES, empty

DIGESTS = "digests.json"
_RECORD = {
    "status": str,
    "config": dict,
    "plugins": dict,
    "environment": dict,
    "cells": list,
    "failures": dict,
    "notices": list,
    "tables": dict,
}
"""What kind of value `run.json` holds under a name."""

_CELL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")


@dataclass(frozen=True)
class SavedRun:
    """A run as read from its directory: `run.json` and the tidy tables of its workflow."""

    path: Path
    meta: dict[str, Any]
    tables: Mapping[str, pd.DataFrame]

    @property
    def rows(self) -> pd.DataFrame:
        """What was measured at the end of each network's training: every workflow has it."""
        return self.tables["rows"]


@dataclass(frozen=True)
class CellResult:
    """What one cell of a sweep leaves behind: table rows, tensor files, and remarks.

    A table of the workflow that is not there has no rows.
    """

    tables: Mapping[str, pd.DataFrame]
    tensors: Mapping[str, bytes] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class RunStore:
    """One run directory. Cells are directories of their own, so workers need not share files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sound: set[Path] = set()

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, Any]) -> RunStore:
        """Make a new run directory; raise RunError if the place is taken or not writable."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise RunError(
                f"{path} exists and is not empty; choose another --out, or go on with a run there: "
                f"polykit run --resume {path}"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(path, error) from error
        store = cls(path)
        store.write_meta(meta)
        return store

    @classmethod
    def create_in(cls, folder: Path, name: str, meta: Mapping[str, Any]) -> RunStore:
        """Make a new run directory `name`, `name-2`, … in `folder`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                path = folder / (name if number == 1 else f"{name}-{number}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise not_written(folder, error) from error
        return cls.create(path, meta)

    @classmethod
    def open(cls, path: Path) -> RunStore:
        """Open a run directory; raise RunError if it is not one."""
        if not (path / "run.json").is_file():
            raise RunError(
                f"{path} is not a run: it has no run.json; `polykit runs list` shows runs"
            )
        return cls(path)

    @property
    def meta(self) -> dict[str, Any]:
        """The content of `run.json`; raise RunError if it is damaged."""
        meta = read_json(self.path / "run.json")
        if not isinstance(meta, dict) or "status" not in meta or "config" not in meta:
            raise RunError(f"{self.path / 'run.json'} is damaged: it does not describe a run")
        for name, kind in _RECORD.items():
            if name in meta and not isinstance(meta[name], kind):
                raise RunError(f"{self.path / 'run.json'} is damaged: its {name} is {meta[name]!r}")
        return meta

    @property
    def workflow(self) -> str:
        """Which workflow the run is of; raise RunError for one that is not known here."""
        name = str(self.meta.get("workflow"))
        if name not in TABLES:
            raise RunError(
                f"{self.path} is a run of the workflow {name!r}, which this polykit does not know "
                f"(it knows {', '.join(TABLES)}); update polykit"
            )
        return name

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace `run.json`."""
        write_json(self.path / "run.json", dict(meta))

    def cell(self, name: str) -> Path:
        """Return the directory of a cell; raise RunError for a name that could leave the run."""
        if not _CELL.fullmatch(name):
            raise RunError(f"{name!r} is no cell name: letters, digits and . _ = + - only")
        return self.path / "cells" / name

    def scratch(self, name: str) -> Path:
        """Return where a cell may keep its checkpoint until it is done."""
        return self.cell(name).with_name(f"{name}.checkpoint")

    def has(self, name: str) -> bool:
        """Whether a cell is done."""
        return self.cell(name).is_dir()

    def tidy(self) -> None:
        """Remove what processes left behind that were killed while they wrote."""
        for path in (*self.path.iterdir(), *self.path.glob("cells/.*")):
            if is_temporary(path) and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif is_temporary(path):
                path.unlink(missing_ok=True)

    def discard_damaged(self, cells: Iterable[str]) -> list[str]:
        """Take away the cells whose files are not what was written; say of each what is wrong."""
        problems = []
        for name in cells:
            try:
                for file in self._digests(name):
                    self.file(name, file)
            except RunError as error:
                shutil.rmtree(self.cell(name))
                problems.append(str(error))
        return problems

    def write_cell(self, name: str, result: CellResult) -> None:
        """Write a cell, whole or not at all; a cell that is there already stays."""
        target = self.cell(name)
        workflow = self.workflow
        files = dict(result.tensors)
        for table in TABLES[workflow]:
            rows = result.tables.get(table, empty(workflow, table))
            files[f"{table}.parquet"] = _parquet(rows)
        files["notices.json"] = json_bytes(list(result.notices))
        temporary = temporary_name(target)
        try:
            temporary.mkdir(parents=True)
        except OSError as error:
            raise not_written(target, error) from error
        try:
            for file, content in files.items():
                write_bytes(temporary / file, content)
            write_json(temporary / DIGESTS, {name: _sha256(files[name]) for name in sorted(files)})
            os.rename(temporary, target)
            self.scratch(name).unlink(missing_ok=True)
        except OSError as error:
            if not target.is_dir():
                raise not_written(target, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def file(self, name: str, file: str) -> Path:
        """Return the place of a cell's file; raise RunError if it is not what was written.

        Each is read for that once; a cell of an older polykit, without digests, is believed.
        """
        path = self.cell(name) / file
        if path not in self._sound:
            expected = self._digests(name).get(file)
            if expected is not None:
                self._check(path, expected)
            self._sound.add(path)
        return path

    def _digests(self, name: str) -> dict[str, str]:
        path = self.cell(name) / DIGESTS
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise RunError(f"{path} is damaged: it holds no digests")
        return found

    def _check(self, path: Path, expected: str) -> None:
        if digest(path) != expected:
            raise RunError(
                f"{path} is damaged: it is not what was written. Make it anew with: polykit run "
                f"--resume {self.path}"
            )

    def read_tensors(self, name: str, file: str) -> dict[str, Tensor]:
        """Read a safetensors file of a cell."""
        path = self.file(name, file)
        try:
            return load_file(path)
        except Exception as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def read_table(self, name: str, table: str) -> pd.DataFrame:
        """Read one of the tables that a cell left behind."""
        return self._read(self.file(name, f"{table}.parquet"))

    def notices(self, cells: Iterable[str]) -> list[str]:
        """Remarks of the cells that are done, in order, each once."""
        found = [
            line
            for name in cells
            if self.has(name)
            for line in read_json(self.cell(name) / "notices.json")
        ]
        return list(dict.fromkeys(found))

    def collect(self, cells: Iterable[str]) -> dict[str, str]:
        """Write the run's tables from the cells that are done, in the order given.

        Returns the digests of their files, for the run's record.
        """
        found = {}
        done = [name for name in cells if self.has(name)]
        workflow = self.workflow
        for table, columns in TABLES[workflow].items():
            parts = [self.read_table(name, table) for name in done]
            parts = [part for part in parts if len(part)]
            joined = pd.concat(parts, ignore_index=True) if parts else empty(workflow, table)
            content = _parquet(joined[list(columns)])
            write_bytes(self.path / f"{table}.parquet", content)
            found[f"{table}.parquet"] = _sha256(content)
        return found

    def _read(self, path: Path) -> pd.DataFrame:
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{path} cannot be read: {error}. An unfinished or damaged run goes on with: "
                f"polykit run --resume {self.path}"
            ) from error

    def load(self) -> SavedRun:
        """Read the run; raise RunError where a table is missing or damaged."""
        tables, digests = {}, self.meta.get("tables", {})
        for table, columns in TABLES[self.workflow].items():
            file = f"{table}.parquet"
            if file in digests:
                self._check(self.path / file, digests[file])
            tables[table] = self._read(self.path / f"{table}.parquet")
            missing = set(columns) - set(tables[table].columns)
            if missing:
                raise RunError(f"{self.path}/{table}.parquet lacks columns {sorted(missing)}")
        return SavedRun(self.path, self.meta, tables)


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors as safetensors."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return save(plain)


def _sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes in hex digits, as `files.digest` does of a file."""
    return hashlib.sha256(content).hexdigest()


def _parquet(rows: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False)
    return buffer.getvalue()
