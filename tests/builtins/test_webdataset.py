"""Pictures in tar shards: read where they lie, in any order, and nothing of them believed."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from polykit.errors import DataError
from polykit.runtime.samples.splits import SPLITS, indexed
from polykit.types import Data
from polykit_builtins.datasets import webdataset
from polykit_builtins.datasets.patterns import expanded, matching
from polykit_builtins.datasets.tar import members
from polykit_builtins.datasets.webdataset import WebDataset

SMALL = {"size": 8, "crop": 8}
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def flat(level: int) -> bytes:
    return png(np.full((8, 8, 3), level))


def archive(files: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def shard(path: Path, files: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive(files, form))
    return path


def samples(first: int, count: int, ending: str = "cls") -> dict[str, bytes]:
    """Flat pictures whose level tells their number, of the classes 0 and 1 in turn."""
    files = {}
    for number in range(first, first + count):
        label = str(number % 2)
        files[f"{number:06}.png"] = flat(number)
        files[f"{number:06}.{ending}"] = (
            json.dumps({"label": number % 2}).encode() if ending == "json" else label.encode()
        )
    return files


def shards(folder: Path, count: int = 3, each: int = 10, prefix: str = "part") -> Path:
    for number in range(count):
        shard(folder / f"{prefix}-{number:03}.tar", samples(number * each, each))
    return folder


def seen(data: Data) -> dict[int, tuple[str, int, str]]:
    """Level of each picture → its part, class and source."""
    found = {}
    for part in SPLITS:
        for indices, x, y in indexed(getattr(data, part), 4):
            levels = (data.picture(x)[:, 0, 0, 0] * 255).round().int().tolist()
            for index, level, label in zip(indices.tolist(), levels, y.tolist(), strict=True):
                assert level not in found
                found[level] = part, label, data.source(part, index)
    return found


@pytest.mark.parametrize("ending", ["cls", "json", "txt"])
def test_every_sample_is_found_once_with_its_class_and_source(ending: str, tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number}.tar", samples(number * 10, 10, ending))
    data = WebDataset(path=str(tmp_path), **SMALL).load()
    assert (data.input_shape, data.outputs, data.classes) == ((3, 8, 8), 2, ("0", "1"))
    assert [len(getattr(data, part)) for part in SPLITS] == [21, 5, 4]
    found = seen(data)
    assert sorted(found) == list(range(30))
    for level, (_, label, source) in found.items():
        assert (label, source) == (level % 2, f"{level // 10}.tar:{level:06}.png")
    assert data.skipped() == []


def test_pictures_are_those_of_the_files_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3))
    files = {}
    for number, each in enumerate(pixels):
        files |= {f"{number:02}.png": png(each), f"{number:02}.cls": b"%d" % (number % 2)}
    for part in ("train", "val", "test"):
        shard(tmp_path / f"{part}-0.tar", files)
    data = WebDataset(path=str(tmp_path), workers=1, **SMALL).load()
    order = torch.from_numpy(rng.permutation(12))
    x, y = next(data.train.batches(12, order=order))
    torch.testing.assert_close(
        (data.picture(x) * 255).permute(0, 2, 3, 1),
        torch.tensor(pixels)[order].float(),
        atol=1e-3,
        rtol=0,
    )
    assert torch.equal(y, order % 2)


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "val", "test"), [10, 10, 10]),
        (("a-train", "a-validation"), [8, 10, 2]),
        (("train/0", "valid/0"), [8, 10, 2]),
        (("val", "test"), [14, 3, 3]),
        (("training", "other"), [14, 3, 3]),
    ],
)
def test_parts_are_told_by_the_names_of_shards(
    names: Sequence[str], sizes: list[int], tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        shard(tmp_path / f"{name}-000.tar", samples(number * 10, 10))
    data = WebDataset(path=str(tmp_path), **SMALL).load()
    assert [len(getattr(data, part)) for part in SPLITS] == sizes
    assert sorted(seen(data)) == list(range(10 * len(names)))


def test_a_shard_of_no_part_among_shards_of_parts_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, 1, prefix="train")
    shards(tmp_path, 1, prefix="extra")
    with pytest.raises(DataError, match=r"extra-000\.tar is no shard of train, val or test"):
        WebDataset(path=str(tmp_path)).load()


def test_class_numbers_are_outputs_and_names_are_sorted(tmp_path: Path) -> None:
    files = {
        f"{n}.{kind}": flat(n) if kind == "png" else c
        for n, c in enumerate([b" 7\n", b"3"] * 6)
        for kind in ("png", "cls")
    }
    assert WebDataset(path=str(shard(tmp_path / "a.tar", files)), **SMALL).load().outputs == 8
    files = {
        f"{n}.{kind}": flat(n) if kind == "png" else c
        for n, c in enumerate([b"dog", b"Cat"] * 6)
        for kind in ("png", "txt")
    }
    data = WebDataset(path=str(shard(tmp_path / "b.tar", files)), **SMALL).load()
    assert data.classes == ("Cat", "dog")
    assert {level: label for level, (_, label, _) in seen(data).items()} == {
        n: 1 - n % 2 for n in range(12)
    }


def test_other_files_can_hold_the_class_and_names_explain_it(tmp_path: Path) -> None:
    files = {}
    for number in range(12):
        files |= {
            f"{number}.seg.png": flat(0),
            f"{number}.PNG": flat(number),
            f"{number}.cls": b"0",
            f"{number}.json": json.dumps({"kind": ["n1", "n2"][number % 2]}).encode(),
        }
    (tmp_path / "names").write_text("n1 cat\nn2 dog\n")
    options = {"label": "json.kind,cls", "names": str(tmp_path / "names"), **SMALL}
    data = WebDataset(path=str(shard(tmp_path / "a.tar", files)), **options).load()
    assert (data.classes, data.names) == (("n1", "n2"), ("cat", "dog"))
    assert sorted(seen(data)) == list(range(12))


def test_what_is_no_sample_is_left_out_and_counted(tmp_path: Path) -> None:
    files = samples(0, 12) | {
        "__meta__.png": flat(200),
        "README": b"no sample",
        ".hidden": b"no sample",
        "a/1.cls": b"0",
        "a/2.cls": b"1",
        "b/1.png": flat(201),
        "c/1.png": flat(202),
        "c/1.json": b"[" * 100_000,
        "d/1.png": flat(203),
        "d/1.cls": b"\x1b[31m",
        "e/1.png": flat(204),
        "e/1.json": b'{"label": true}',
    }
    data = WebDataset(path=str(shard(tmp_path / "a.tar", files)), **SMALL).load()
    assert sorted(seen(data)) == list(range(12))
    assert data.skipped() == [
        "2 samples without a picture, left out; the first: a.tar:a/1",
        "4 samples without a class, left out; the first: a.tar:b/1",
    ]


def test_unreadable_pictures_are_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    files = samples(0, 12) | {
        "cut.png": flat(99)[:-40],
        "cut.cls": b"0",
        "text.jpg": b"no picture",
        "text.cls": b"1",
        "large.png": png(noise),
        "large.cls": b"1",
    }
    monkeypatch.setattr(webdataset, "_LARGEST", 2000)
    data = WebDataset(path=str(shard(tmp_path / "a.tar", files)), **SMALL).load()
    assert sorted(seen(data)) == list(range(12))
    lines = sorted(data.skipped())
    assert [line.partition(": ")[0] for line in lines] == [
        f"a.tar:{n}" for n in ("cut.png", "large.png", "text.jpg")
    ]
    assert "too large" in lines[1]


def test_names_that_lead_out_are_only_names(tmp_path: Path) -> None:
    """Nothing is unpacked, so what would escape stays; links and devices are not followed."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(flat(250))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"kind{kind.decode()}.png")
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
            label = tarfile.TarInfo(f"kind{kind.decode()}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
        for number in range(12):
            for ending, content in (("png", flat(number)), ("cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(f"{('../../', '/etc/')[number % 2]}{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(buffer.getvalue())
    data = WebDataset(path=str(tmp_path / "in"), **SMALL).load()
    found = seen(data)
    assert sorted(found) == list(range(12))
    assert found[2][2] == "a.tar:../../2.png"
    assert data.skipped() == ["4 samples without a picture, left out; the first: a.tar:kind2"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "in", "secret.png"]


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300
)


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6),
    st.sampled_from(FORMATS[1:]),
)
def test_members_are_those_that_tarfile_finds(files: list[tuple[str, bytes]], form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        theirs = [(m.name, m.offset, m.offset_data, m.size) for m in tar if m.isreg()]
    ours = [(m.name.rstrip("/"), m.header, m.content, m.size) for m in members(buffer)]
    assert ours == theirs
    for name, header, *_ in ours:
        assert next(members(buffer, header)).name.rstrip("/") == name


@given(st.integers(0, 2**31), st.sampled_from(FORMATS))
def test_a_shard_that_is_cut_anywhere_is_refused(place: int, form: int) -> None:
    whole = archive({f"{'long' * 30}/{n}.cls": b"7" * (700 * n) for n in range(3)}, form)
    content = whole[: place % (whole.rstrip(b"\0").__len__() + 1)]
    with pytest.raises(DataError, match=r"cut short|are left"):
        list(members(io.BytesIO(content)))


@given(st.lists(st.tuples(st.integers(0, 5119), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_shard_with_wrong_bytes_ends_in_members_or_a_clear_error(
    changes: list[tuple[int, int]],
) -> None:
    content = bytearray(
        archive({"a" * 150 + ".png": b"1" * 600, "b.cls": b"1"}, tarfile.PAX_FORMAT)
    )
    for place, value in changes:
        content[place] = value
    try:
        found = list(members(io.BytesIO(bytes(content))))
    except DataError:
        return
    assert all(0 <= m.header < m.content <= m.content + m.size <= len(content) for m in found)


def header(size: bytes, kind: bytes = b"0") -> bytes:
    """A header with a right checksum that tells a size as it likes."""
    info = tarfile.TarInfo("a.png")
    info.type = kind
    block = bytearray(info.tobuf())
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is cut short: it ends at byte 0"),
        (b"<html>not found</html>" * 100, "is no tar archive, or damaged: at byte 0"),
        (gzip.compress(b"x" * 2000, mtime=0) + bytes(600), "is compressed by gzip"),
        (header(b"\xff" * 12) + bytes(2048), "a file of -1 bytes"),
        (header(b"\xff" * 12, tarfile.XHDTYPE) + bytes(2048), "a file of -1 bytes"),
        (header(b"\x80" + b"\xff" * 11) + bytes(2048), r"a file of \d{20,} bytes"),
        (header(b"77777777777") + bytes(2048), "a file of 8589934591 bytes"),
        (header(b"1000000", tarfile.XHDTYPE) + bytes(300_000), "an extended header of 262144"),
        (
            header(b"13", tarfile.XHDTYPE) + b"99 path=x\n\n".ljust(512, b"\0") + bytes(1024),
            "without sense",
        ),
        (
            header(b"13", tarfile.XHDTYPE) + b"11 size=-5\n".ljust(512, b"\0") + header(b"0"),
            "the size '-5'",
        ),
        (header(b"0", tarfile.GNUTYPE_SPARSE) + bytes(1024), "holds sparse files"),
        (archive({"1.png": b"1", "1.PNG": b"2"}), "holds two files 1.PNG in one sample"),
    ],
)
def test_hostile_and_damaged_shards_are_named_with_the_remedy(
    content: bytes, message: str, tmp_path: Path
) -> None:
    shards(tmp_path)
    (tmp_path / "part-001.tar").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"part-001\.tar .*(?:{message}).*leave it out of the pattern"
    ):
        WebDataset(path=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no path was named"),
        ("none", "there is no file none"),
        ("none-*", r"none-\* names no \*.tar file"),
        ("{000..999999999}.tar", "names more than 100,000 files"),
        ("{a,b}" * 40, "names more than 100,000 files"),
        ("a\0b", "a\0b cannot be read|there is no file a\0b"),
    ],
)
def test_paths_that_name_no_shards_are_refused(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        WebDataset(path=path).load()


def test_patterns_name_files_in_order_and_all_must_be_there(tmp_path: Path) -> None:
    shards(tmp_path, 12, 2)
    (tmp_path / ".hidden.tar").touch()
    (tmp_path / "note.txt").touch()
    every = sorted(tmp_path.glob("part*"))
    assert matching(str(tmp_path), ".tar", "us") == every
    assert matching(f"{tmp_path}/part-*", ".tar", "us") == every
    assert matching(f"{tmp_path}/part-{{000..011}}.tar", ".tar", "us") == every
    assert matching(f"{tmp_path}/part-{{007,003}}.tar", ".tar", "us") == [every[7], every[3]]
    with pytest.raises(DataError, match=r"us: there is no file .*part-012\.tar"):
        matching(f"{tmp_path}/part-{{000..012}}.tar", ".tar", "us")
    assert list(expanded("{x}{1..2}{a,}")) == ["{x}1a", "{x}1", "{x}2a", "{x}2"]


@pytest.mark.parametrize("label", ["", "cls,,txt", "json", "json."])
def test_labels_that_name_no_files_are_refused(label: str) -> None:
    with pytest.raises(ValidationError, match="names no files"):
        WebDataset(path="x", label=label)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": b"", "1.cls": b"0"}, "one class only: 0"),
        ({"1.txt": b"cat"}, "no picture with a class.*1 samples without a picture"),
        (
            {"1.png": b"", "1.cls": b"123456789", "2.png": b"", "2.cls": b"0"},
            "class 123456789 would be",
        ),
    ],
)
def test_shards_without_two_classes_are_refused(
    files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        WebDataset(path=str(shard(tmp_path / "a.tar", files))).load()


def test_too_many_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MOST_CLASSES", 5)
    files = {f"{n}.{e}": b"c%d" % n for n in range(8) for e in ("png", "txt")}
    with pytest.raises(DataError, match="more than 5 different classes; see option label"):
        WebDataset(path=str(shard(tmp_path / "a.tar", files))).load()
