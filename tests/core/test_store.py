import errno
import os

import pandas as pd
import pytest
import torch

from polykit.errors import DiskFullError, RunError
from polykit.runtime import files
from polykit.runtime.locks import only_here
from polykit.runtime.store import DIGESTS, CellResult, RunStore, tensor_bytes

META = {"status": "running", "config": {}, "workflow": "analyze"}


def result(value=1.0):
    row = {"seed": 0, "pruner": "p", "density": 0.5, "achieved_density": 0.5, "stage": "pruned"}
    row |= {"metric": "m", "layer": "all", "statistic": "s", "value": value}
    return CellResult(
        {"rows": pd.DataFrame([row])},
        {"t.safetensors": tensor_bytes({"x": torch.arange(3)})},
        ("note",),
    )


def test_round_trip_and_same_bytes(tmp_path):
    paths = []
    for name in ("a", "b"):
        store = RunStore.create(tmp_path / name, META)
        for cell, value in (("two", 2.0), ("one", 1.0))[:: 1 if name == "a" else -1]:
            store.write_cell(cell, result(value))
        store.collect(["one", "two", "missing"])
        paths.append(store.path)
    assert [len(RunStore.open(p).load().rows) for p in paths] == [2, 2]
    assert list(RunStore.open(paths[0]).load().rows["value"]) == [1.0, 2.0]
    for file in ("rows.parquet", "units.parquet", "history.parquet", "cells/one/rows.parquet"):
        assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes()
    store = RunStore.open(paths[0])
    assert store.notices(["one", "two"]) == ["note"]
    assert torch.equal(store.read_tensors("one", "t.safetensors")["x"], torch.arange(3))


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    store = RunStore.create(tmp_path / "run", META)
    store.write_cell("done", result())
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    real = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no space left.*--resume"):
        store.write_cell("next", result())
    with pytest.raises(RunError, match="no space left"):
        store.write_meta({**META, "status": "complete"})
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
    assert store.meta["status"] == "running"
    monkeypatch.undo()
    store.write_cell("next", result())
    assert store.has("next")


def test_a_cell_written_twice_stays_as_it_was(tmp_path):
    store = RunStore.create(tmp_path / "run", META)
    store.write_cell("c", result(1.0))
    store.write_cell("c", result(2.0))
    store.collect(["c"])
    assert list(store.load().rows["value"]) == [1.0]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\x00b", "/etc"])
def test_cells_cannot_leave_the_run(tmp_path, name):
    store = RunStore.create(tmp_path / "run", META)
    with pytest.raises(RunError, match="no cell name"):
        store.write_cell(name, result())


def test_places_that_cannot_be_a_run(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        RunStore.create(tmp_path / "full", META)
    with pytest.raises(RunError, match="not a run"):
        RunStore.open(tmp_path / "full")
    with pytest.raises(RunError, match=r"run\.json"):
        RunStore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        RunStore.create(tmp_path / "file" / "run", META)
    (tmp_path / "full" / "run.json").write_text("{broken")
    with pytest.raises(RunError, match="cannot be read"):
        _ = RunStore.open(tmp_path / "full").meta


def test_not_writable_is_said(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    with pytest.raises(RunError, match=r"not writable.*--out"):
        RunStore.create(tmp_path / "run", META)


def test_damaged_tables_are_said(tmp_path):
    store = RunStore.create(tmp_path / "run", META)
    with pytest.raises(RunError, match="--resume"):
        store.load()
    store.collect([])
    assert len(store.load().rows) == 0
    (store.path / "rows.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(RunError, match=r"rows\.parquet"):
        store.load()
    store.write_cell("one", result())
    (store.cell("one") / "rows.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(RunError, match=r"one/rows\.parquet is damaged.*--resume .*run$"):
        store.collect(["one"])


@pytest.mark.parametrize("file", ["rows.parquet", "t.safetensors", "notices.json", DIGESTS])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_cells_are_told_from_whole_ones_and_taken_away(tmp_path, file, harm):
    store = RunStore.create(tmp_path / "run", META)
    for name in ("one", "two"):
        store.write_cell(name, result())
    path = store.cell("one") / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if harm != "remove":
        path.write_bytes(content if harm == "flip" else content[:-3])
    elif file == DIGESTS:  # a cell of an older polykit: nothing to tell it by
        assert RunStore.open(store.path).discard_damaged(["one", "two"]) == []
        return
    fresh = RunStore.open(store.path)
    if file != DIGESTS:
        with pytest.raises(RunError, match=file):
            fresh.file("one", file)
    (problem,) = RunStore.open(store.path).discard_damaged(["one", "two", "three"])
    assert f"cells/one/{file}" in problem or file == DIGESTS
    assert (store.has("one"), store.has("two")) == (False, True)


def test_a_file_is_checked_before_it_is_read_for_the_first_time(tmp_path):
    store = RunStore.create(tmp_path / "run", META)
    store.write_cell("one", result())
    path = store.cell("one") / "t.safetensors"
    path.write_bytes(tensor_bytes({"x": torch.arange(4)}))
    with pytest.raises(RunError, match="not what was written"):
        store.read_tensors("one", "t.safetensors")


def test_damaged_tables_of_a_run_are_told_by_its_record(tmp_path):
    store = RunStore.create(tmp_path / "run", META)
    store.write_cell("one", result())
    store.write_meta({**META, "tables": store.collect(["one"])})
    assert len(store.load().rows) == 1
    empty = RunStore.create(tmp_path / "other", META)
    empty.collect([])
    (empty.path / "rows.parquet").replace(store.path / "rows.parquet")  # it can be read
    with pytest.raises(RunError, match=r"rows\.parquet is damaged.*--resume"):
        store.load()


def test_tidy_takes_away_what_was_not_finished_and_nothing_else(tmp_path):
    store = RunStore.create(tmp_path / "run", META)
    store.write_cell("one", result())
    store.scratch("two").write_bytes(b"half-way")
    kept = set(store.path.rglob("*"))
    left = store.path / "cells" / ".two.0123abcd"
    left.mkdir()
    (left / "rows.parquet").write_bytes(b"PAR1")
    (store.path / ".run.json.89abcdef").write_bytes(b"{")
    (store.path / "cells" / ".two.checkpoint.01234567").write_bytes(b"")
    kept.add(store.path / ".mine")
    (store.path / ".mine").touch()
    store.tidy()
    assert set(store.path.rglob("*")) == kept


def test_only_one_at_a_time_works_in_a_directory(tmp_path):
    with (
        only_here(tmp_path),
        pytest.raises(RunError, match="another process is at work"),
        only_here(tmp_path),
    ):
        pass
    with only_here(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("polykit.runtime.locks.fcntl.flock", refuse)
    with only_here(tmp_path), only_here(tmp_path):
        pass


def test_names_of_new_runs_do_not_meet(tmp_path):
    names = [RunStore.create_in(tmp_path, "run", META).path.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_a_run_of_an_unknown_workflow_is_said(tmp_path):
    store = RunStore.create(tmp_path / "run", {**META, "workflow": "alchemy"})
    with pytest.raises(RunError, match=r"alchemy'.*analyze, .*laboratory.*update polykit"):
        store.load()


def test_a_laboratory_has_tables_of_its_own(tmp_path):
    store = RunStore.create(tmp_path / "run", {**META, "workflow": "laboratory"})
    world = {"scenario": "N2", "seed": 0, "fact": "label_ceiling", "value": 0.9}
    store.write_cell("world", CellResult({"worlds": pd.DataFrame([world])}))
    store.collect(["world"])
    tables = store.load().tables
    assert {name: len(table) for name, table in tables.items()} == {
        "worlds": 1,
        "networks": 0,
        "rows": 0,
        "history": 0,
        "epochs": 0,
    }
