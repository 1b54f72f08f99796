"""verify catches every flipped byte and every cut, in every file; what reads a sample catches all that touch it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import crc32c
import numpy as np
import pyarrow as pa
import pytest

from mmdata.errors import DataError
from mmdata.rng import generator
from mmdata.shards import manifest
from mmdata.shards.dataset import open_dataset
from mmdata.types import Sample
from mmdata.verify import main, verify_dataset
from tests.building import build, folder_of_pictures, write_spec


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    folder_of_pictures(folder / "in", 9)
    (folder / "in" / "0004.jpg").write_bytes(b"not a picture")
    build(
        write_spec(
            folder / "s.yaml",
            {"kind": "folder", "path": "in"},
            [{"kind": "probe"}, {"kind": "near_dup"}],
            output={"unit_rows": 4},
        )
    )
    return folder / "out"


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("lock", "binding")]


def test_a_sound_dataset_has_no_problem(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_dataset(sound).problems == []
    assert main([str(sound)]) == 0
    assert "8 samples, 3 shards" in capsys.readouterr().out


def damaged(sound: Path, at: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy with one file changed, the others linked."""
    copy = sound.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy, copy_function=lambda a, b: Path(b).hardlink_to(a))
    path = copy / at.relative_to(sound)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))
    return copy


@pytest.mark.parametrize("column", ["key", "parts"])
def test_offsets_that_a_stranger_made_up_are_found_though_every_checksum_fits(sound: Path, column: str) -> None:
    entry = manifest.read(sound).shards[0]
    made = pa.ipc.open_file(pa.py_buffer((sound / str(entry.index)).read_bytes())).get_batch(0)
    offsets = np.frombuffer(made.column(column).buffers()[1], np.int32, 3).tobytes()  # a stretch that the file has once
    beyond = np.array([0, 1 << 30, 2], np.int32).tobytes()

    def mislead(data: bytes) -> bytes:
        assert data.count(offsets) >= 1
        return data.replace(offsets, beyond)

    copy = damaged(sound, sound / str(entry.index), mislead)
    (copy / "manifest.json").unlink()  # a hard link of the sound one
    told = manifest.read(sound)
    data = (copy / str(entry.index)).read_bytes()
    changed = replace(entry, index_sha256=hashlib.sha256(data).hexdigest(), index_crc32c=crc32c.crc32c(data))
    shards = [changed, *told.shards[1:]]
    manifest.write(copy, replace(told, shards=shards, root_digest=manifest.root_digest(shards)))
    problems = verify_dataset(copy).problems
    assert any(problem.startswith("index_damaged") for problem in problems), problems


FEW_OR_MANY = pytest.mark.parametrize("count", [5, pytest.param(60, marks=pytest.mark.soak)])
"""Places in each file, beside its first and its last byte."""


def places(size: int, *what: str | int, count: int) -> list[int]:
    draw = generator(*what)
    return sorted({0, size - 1, *(int(n) for n in draw.integers(0, size, count))})


@FEW_OR_MANY
def test_every_flip_in_every_file_is_caught(sound: Path, count: int) -> None:
    for path in files(sound):
        for at in places(path.stat().st_size, "flip", path.name, count=count):
            copy = damaged(sound, path, lambda d, at=at: d[:at] + bytes([d[at] ^ (1 << at % 8)]) + d[at + 1 :])
            assert verify_dataset(copy).problems, f"{path} byte {at}"


@FEW_OR_MANY
def test_every_cut_and_every_missing_file_is_caught(sound: Path, count: int) -> None:
    for path in files(sound):
        for at in places(path.stat().st_size, "cut", path.name, count=count // 3):
            assert verify_dataset(damaged(sound, path, lambda d, at=at: d[:at])).problems, f"{path} cut at {at}"
        copy = damaged(sound, path, lambda d: d)
        (copy / path.relative_to(sound)).unlink()
        assert verify_dataset(copy).problems, f"{path} missing"


def test_appended_bytes_and_unknown_files_are_caught(sound: Path) -> None:
    for path in files(sound):
        assert verify_dataset(damaged(sound, path, lambda d: d + b"\0")).problems, f"{path} grown"
    copy = damaged(sound, sound / "manifest.json", lambda d: d)
    (copy / "shards" / "000009.tar").write_bytes(b"")
    assert any("file_unknown" in problem for problem in verify_dataset(copy).problems)


def test_the_exit_code_tells(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = damaged(sound, sound / "shards" / "000000.tar", lambda d: d[:-1] + b"x")
    assert main([str(copy)]) == 1
    assert "file_sha256" in capsys.readouterr().out
    assert main([str(sound.parent / "nothing")]) == 1
    assert "manifest_missing" in capsys.readouterr().out


@FEW_OR_MANY
def test_no_damaged_sample_is_ever_returned(sound: Path, count: int) -> None:
    """Every flip in shards, indexes and manifest: each sample read is the true one, or reading raises DataError."""
    truth: list[Sample] = list(open_dataset(sound))
    raised = 0
    for folder in ("shards", "index"):
        for path in files(sound / folder):
            for at in places(path.stat().st_size, "read", path.name, count=2 * count):
                copy = damaged(sound, path, lambda d, at=at: d[:at] + bytes([d[at] ^ (1 << at % 8)]) + d[at + 1 :])
                dataset = open_dataset(copy)
                for position, sample in enumerate(truth):
                    try:
                        assert dataset[position] == sample, f"{path} byte {at}"
                    except DataError:
                        raised += 1
    assert raised > 2 * count


def test_swapped_shards_are_caught(sound: Path) -> None:
    copy = damaged(sound, sound / "shards" / "000000.tar", lambda d: (sound / "shards" / "000002.tar").read_bytes())
    assert verify_dataset(copy).problems
    with pytest.raises(DataError):
        open_dataset(copy)[0]
