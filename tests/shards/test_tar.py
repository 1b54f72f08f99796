"""Our tar writer against Python's tarfile, and the walk against damage at every byte of the structure."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.shards import tar

members_strategy = st.lists(
    st.tuples(st.from_regex(r"[a-z0-9]{1,40}\.[a-z]{1,9}", fullmatch=True), st.binary(max_size=1500)), max_size=8
)


def archive(members: list[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    file = io.BytesIO()
    writer = tar.TarWriter(file)
    offsets = [writer.add(name, data) for name, data in members]
    writer.finish()
    assert writer.position == len(file.getvalue())
    return file.getvalue(), offsets


@given(members_strategy)
def test_tarfile_reads_what_we_write(members: list[tuple[str, bytes]]) -> None:
    data, offsets = archive(members)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as reader:
        found = reader.getmembers()
        assert [m.name for m in found] == [name for name, _ in members]
        assert [m.offset_data for m in found] == offsets
        for info, (_, body) in zip(found, members, strict=True):
            extracted = reader.extractfile(info)
            assert extracted is not None
            assert extracted.read() == body
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)


def test_header_is_what_tarfile_makes() -> None:
    info = tarfile.TarInfo("000000007.jpg")
    info.size, info.mode = 123456, 0o644
    assert tar.header("000000007.jpg", 123456) == info.tobuf(format=tarfile.USTAR_FORMAT)


def test_walk_finds_the_members(tmp_path: Path) -> None:
    data, offsets = archive([("a.jpg", b"x" * 700), ("a.txt", b"hi"), ("b.jpg", b"")])
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    assert [(m.name, m.offset, m.size) for m in tar.walk(path)] == [
        ("a.jpg", offsets[0], 700),
        ("a.txt", offsets[1], 2),
        ("b.jpg", offsets[2], 0),
    ]


def test_walk_catches_every_cut_and_every_structural_flip(tmp_path: Path) -> None:
    members = [("a.jpg", b"x" * 700), ("a.txt", b"hi")]
    data, offsets = archive(members)
    body = {at for o, (_, d) in zip(offsets, members, strict=True) for at in range(o, o + len(d))}
    path = tmp_path / "s.tar"
    for cut in range(0, len(data), 37):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError):
            list(tar.walk(path))
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        if at in body:
            assert len(list(tar.walk(path))) == 2
        else:
            with pytest.raises(DataError):
                list(tar.walk(path))


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("", 1), ("a", 8**11)])
def test_what_ustar_cannot_hold_is_refused(name: str, size: int) -> None:
    with pytest.raises(DataError):
        tar.header(name, size)
