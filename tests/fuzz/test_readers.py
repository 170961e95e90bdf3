"""Whatever a file holds, reading it succeeds or ends in an error that a user can mend.

`POLYKIT_FUZZ` is the number of inputs for each reader; `make fuzz` takes ten thousand.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polykit.api import KINDS, Entry, hookimpl
from polykit.cli.plugins import conflicts
from polykit.cli.run import read_recipe
from polykit.cli.settings import read_options
from polykit.errors import PolykitError
from polykit.registry import Registry
from polykit.workflows.configs import CONFIGS
from tests.fuzz.readers import READERS, RECIPE, Reader, one_table, parquet, renamed, table
from tests.fuzz.strategies import (
    TEXT,
    VALUES,
    damaged,
    exchanged,
    exchanged_header,
    exchanged_json,
)

COUNT = int(os.environ.get("POLYKIT_FUZZ", "100"))
FUZZ = settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize="POLYKIT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to read from; nothing may appear beside it, or where the test runs."""
    (tmp_path / "here").mkdir()
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "in"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "in"]
    assert list((tmp_path / "here").iterdir()) == []


def survives(read: Callable[..., Any], *arguments: Any) -> None:
    """Read; what a user can mend is an answer, too, as long as it has something to say."""
    try:
        read(*arguments)
    except PolykitError as error:
        if not str(error).strip():
            raise AssertionError("the error says nothing") from error


def replace(file: Path, content: bytes) -> None:
    """Write a file anew: some disks take a hundred times longer to shorten one that is there."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def sound_then(reader: Reader, folder: Path, contents: st.SearchStrategy[bytes]) -> None:
    """Read the sound file, which must do, and then many others in its place."""
    file = folder / reader.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(reader.sound())
    reader.read(file)

    @FUZZ
    @given(contents)
    def read(content: bytes) -> None:
        replace(file, content)
        survives(reader.read, file)

    read()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, place: Path) -> None:
    sound_then(READERS[name], place, damaged(READERS[name].sound()))


@pytest.mark.parametrize("name", [name for name, r in READERS.items() if r.kind])
def test_files_with_other_values(name: str, place: Path) -> None:
    reader = READERS[name]
    change = exchanged_json if reader.kind == "json" else exchanged_header
    sound_then(reader, place, change(reader.sound()))


@pytest.mark.parametrize("name", ["recipe", "config-file", "run-record"])
def test_documents_of_endless_depth_are_refused(name: str, place: Path) -> None:
    file = place / READERS[name].file
    depth = b"[" * 200_000
    file.write_bytes(depth if READERS[name].kind == "json" else b"a = " + depth)
    with pytest.raises(PolykitError):
        READERS[name].read(file)


def toml(value: Any) -> str:
    """Write a value as TOML writes it, as far as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    inner = "".join(
        c if c.isalnum() or c in " ._-:=,/<>{}" else f"\\U{ord(c):08x}" for c in str(value)
    )
    return f'"{inner}"'


def test_recipes_with_other_values(place: Path) -> None:
    file = place / "recipe.toml"
    recipes = st.sampled_from(sorted(CONFIGS)).flatmap(
        lambda name: st.dictionaries(
            st.sampled_from([*CONFIGS[name].model_fields, "other"]), VALUES, max_size=4
        ).map(lambda values: {"workflow": name, **values})
    ) | exchanged(tomllib.loads(RECIPE.decode()))

    @FUZZ
    @given(recipes, st.lists(st.tuples(TEXT, TEXT).map("=".join), max_size=2))
    def read(recipe: dict[str, Any], changes: list[str]) -> None:
        lines = [f"{toml(str(key))} = {toml(value)}" for key, value in recipe.items()]
        replace(file, "\n".join(lines).encode())
        survives(read_recipe, file, changes)

    read()


@FUZZ
@given(
    st.lists(TEXT | st.tuples(TEXT, TEXT, TEXT).map(lambda t: f"{t[0]}.{t[1]}={t[2]}"), max_size=3)
)
def test_options_of_plugins(texts: list[str]) -> None:
    survives(read_options, texts)


@pytest.mark.parametrize("kind", ["dataset", "model", "pruner", "metric", "engine"])
def test_names_of_plugins(kind: Any, place: Path) -> None:
    registry = Registry.discover()
    names = st.sampled_from([found.entry.name for found in registry.entries(kind)])
    specs = (
        TEXT
        | st.tuples(names, TEXT).map(":".join)
        | st.tuples(names, TEXT, TEXT).map(lambda t: f"{t[0]}:{t[1]}={t[2]}")
    )

    @FUZZ
    @given(specs)
    def read(spec: str) -> None:
        survives(registry.create, kind, spec)

    read()


def test_tables_with_other_columns(place: Path) -> None:
    (place / "source.parquet").write_bytes(table())
    sound = pd.read_parquet(place / "source.parquet")
    assert len(sound) > 1

    @FUZZ
    @given(st.sampled_from(list(sound.columns)), st.integers(0, 3), st.data())
    def read(column: str, kind: int, data: st.DataObject) -> None:
        frame, content = sound.copy(), None
        if kind == 0:
            frame = frame.drop(columns=column)
        elif kind == 1:
            frame[column] = data.draw(st.sampled_from([None, 1, 2.5, "x", True, b"x"]))
        elif kind == 2:
            frame = frame.iloc[:0]
        else:
            names = st.sampled_from(list(sound.columns)) | TEXT
            name = data.draw(names.filter(lambda t: "\ud800" not in t))
            content = renamed(table(), column, name)
        replace(place / "rows.parquet", content or parquet(frame))
        survives(one_table, place / "rows.parquet")

    read()


ENTRIES = st.builds(
    Entry,
    st.sampled_from(KINDS) | VALUES,
    st.sampled_from(["mine", "ig"]) | VALUES,
    st.sampled_from(["polykit.api:Metric", "no.module:X", "os:system"]) | VALUES,
    VALUES,
    VALUES,
    VALUES,
)


class Hostile:
    """A plugin that returns what it likes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def polykit_entries(self) -> Any:
        return self.answer

    @hookimpl
    def polykit_resolve(self, kind: Any, spec: str) -> Any:
        return self.answer


@FUZZ
@given(st.lists(ENTRIES | VALUES, max_size=3) | VALUES, TEXT, TEXT)
def test_plugins_that_return_anything(answer: Any, name: str, distribution: str) -> None:
    registry = Registry()
    info = registry.register(Hostile(answer), name, distribution)
    assert info.status in ("ok", "broken")
    for found in registry.entries():
        survives(lambda found=found: found.options)
        survives(registry.find, found.entry.kind, found.entry.name)
        survives(registry.create, found.entry.kind, f"{found.entry.name}:a=1")
    survives(registry.create, "metric", "unknown")
    conflicts(registry)
    registry.notify("polykit_cell_finished", cell="a", failure=None)
