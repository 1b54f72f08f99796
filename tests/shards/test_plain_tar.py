"""Headers that are looked at together give the members that are read one by one."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata.decode.glance import MAX_PIXELS, glances
from mmdata.errors import DataError
from mmdata.native.calls import calls
from mmdata.shards import foreign_tar, plain_tar
from mmdata.shards.access import open_source
from mmdata.shards.foreign_tar import ForeignMember, TarPass
from mmdata.shards.plain_tar import HEAD, Alike, Looks, alike, plain_run
from tests.decode.test_glance import COMMON, UNUSUAL

NAMES = st.one_of(
    st.from_regex(r"[a-z0-9/]{1,20}\.[a-z]{1,4}", fullmatch=True),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=130),
)
TYPES = st.sampled_from([tarfile.REGTYPE] * 12 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE])
MEMBERS = st.lists(st.tuples(NAMES, st.integers(0, 3 * HEAD), TYPES), max_size=12)
FORMS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MEMBERS, FORMS, st.sampled_from([0, 1.5]), st.integers(0, 1 << 20), st.integers(1, 255), st.booleans())
def test_members_are_those_of_tarfile(
    tmp_path: Path, members: list[tuple[str, int, bytes]], form: int, time: float, at: int, flip: int, damage: bool
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, (name, size, kind) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.mtime, info.type = time, kind
            info.size = size if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) else 0
            try:
                tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            except (ValueError, UnicodeError):
                continue  # a name that this form cannot hold
    data = bytearray(out.getvalue())
    if damage:
        data[at % len(data)] ^= flip
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    one_by_one: list[tuple[str, int, int]] = []
    for wanted in (None, lambda name, size: False):
        found, error = [], ""
        try:
            for member in TarPass(open_source(path), wanted=wanted).members():
                found.append((member.name, member.offset, member.size))
                assert member.data in (None, data[member.offset : member.offset + member.size])
        except DataError as raised:
            error = raised.reason
        if wanted is None:
            one_by_one, said = found, error
        assert (found, error) == (one_by_one, said)
    if not damage:
        with tarfile.open(path) as tar:
            listed = [(m.name, m.offset_data, m.size) for m in tar if m.isreg() and not m.name.endswith("/")]
        assert one_by_one == listed
    run = plain_run(open_source(path), 0, 100)
    together = list(zip([name.decode() for name in run.names], run.offsets.tolist(), run.sizes.tolist(), strict=True))
    assert together == one_by_one[: len(together)]
    assert run.heads == [data[offset : offset + min(size, HEAD)] for _, offset, size in together]
    plain = [each for each in members if each[2] == tarfile.REGTYPE and each[0].isascii() and len(each[0]) < 100]
    if not damage and not time and plain == members and all(name.strip("/") == name for name, _, _ in members):
        assert len(together) == len(members)


compiled = pytest.mark.skipif(calls() is None, reason="what walks many was not compiled")
EXTENSIONS = ["jpg", "json", "seg.txt"]
NOT_KEYS = ["__a", "a/__b", "/a", "a b", "n" * 93, "\u00e9", ""]
SAMPLE = st.tuples(
    st.sampled_from(["a/b/0", "0", "x_-=,+@~y", "n" * 92, *NOT_KEYS]),
    st.lists(st.integers(0, 3 * HEAD), min_size=3, max_size=3),
    st.sampled_from([EXTENSIONS] * 9 + [EXTENSIONS[:2], EXTENSIONS[::-1], ["jpg", "txt", "json"], ["seg.txt"] * 3]),
    st.sampled_from([tarfile.REGTYPE] * 12 + [tarfile.DIRTYPE]),
)


def told(found: Alike) -> tuple[list[Any], ...]:
    return found.keys, found.offsets.tolist(), found.sizes.tolist(), [list(each) for each in found.heads]


def twin(path: Path, at: int, most: int) -> tuple[list[Any], ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_tar, "calls", lambda: None)
        return told(alike(open_source(path), at, most, EXTENSIONS))


def members_of(path: Path) -> Iterator[ForeignMember | str]:
    """And how they end, where they are damaged."""
    try:
        yield from TarPass(open_source(path)).members()
    except DataError as error:
        yield str(error)


def one_by_one(path: Path) -> list[ForeignMember | str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign_tar, "calls", lambda: None)
        return list(members_of(path))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(SAMPLE, max_size=9),
    FORMS,
    st.sampled_from([0, 1.5]),
    st.integers(0, 1 << 20),
    st.just(0) | st.integers(0, 255),
    st.integers(1, 9),
)
@compiled
def test_samples_alike_are_those_of_tarfile(
    tmp_path: Path,
    samples: list[tuple[str, list[int], list[str], bytes]],
    form: int,
    time: float,
    at: int,
    flip: int,
    most: int,
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, (key, sizes, extensions, kind) in enumerate(samples):
            for size, extension in zip(sizes, extensions, strict=False):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.type, info.size, info.mtime = kind, size if kind == tarfile.REGTYPE else 0, time
                with contextlib.suppress(ValueError):  # a name that this form cannot hold
                    tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    data = bytearray(out.getvalue())
    data[at % len(data)] ^= flip
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    found = told(alike(open_source(path), 0, most, EXTENSIONS))
    fewer = twin(path, 0, most)
    assert fewer == (*(each[: len(fewer[0])] for each in found[:3]), [each[: len(fewer[0])] for each in found[3]])
    assert len(fewer[0]) == len(found[0]) or (form == tarfile.PAX_FORMAT and time)
    assert list(members_of(path)) == one_by_one(path)
    members = {member[1:3] for member in members_of(path) if isinstance(member, ForeignMember)}
    assert members >= {place for each in zip(*found[1:3], strict=True) for place in zip(*each, strict=True)}
    if not flip:
        assert list(zip(*found[:3], strict=True)) == expected(path)[:most]


def expected(path: Path) -> list[tuple[str, list[int], list[int]]]:
    """By tarfile: whatever samples were written, three members that follow each other and suit are one."""
    with tarfile.open(path) as tar:
        members = list(tar)
    samples = []
    for three in zip(*[iter(members)] * 3, strict=False):
        key = three[0].name.removesuffix(".jpg")
        if key in NOT_KEYS or [member.name for member in three] != [f"{key}.{each}" for each in EXTENSIONS]:
            break
        if not all(member.isreg() for member in three):
            break
        samples.append((key, [member.offset_data for member in three], [member.size for member in three]))
    return samples


@compiled
@pytest.mark.parametrize("time", [7, 7.5])
def test_every_damaged_byte_of_a_header_is_seen_alike(tmp_path: Path, time: float) -> None:
    """By the writer of webdataset, which tells times of fractions in extended headers: of each byte that no medium has
    a bit turned, and what means something put there. What is taken then is what is taken one by one, and tarfile's."""
    path = tmp_path / "t.tar"
    written(path, 1, time)
    whole = path.read_bytes()
    first = told(alike(open_source(path), 0, 9, EXTENSIONS))
    assert first[0] == ["000"]
    end = first[1][0][-1]
    bodies = {at for offset, size in zip(first[1][0], first[2][0], strict=True) for at in range(offset, offset + size)}
    believed = set()
    with open(path, "r+b") as file:
        for at in sorted(set(range(end)) - bodies):
            for value in {whole[at] ^ 1, whole[at] ^ 0x80, ord("7")} - {whole[at]}:
                file.seek(at)
                file.write(bytes([value]))
                file.flush()
                found = told(alike(open_source(path), 0, 9, EXTENSIONS))
                if found[0]:
                    believed.add(at)
                    assert found == first
                    names = [member[0] for member in members_of(path)]
                    assert names == [f"{key}.{extension}" for key in found[0] for extension in EXTENSIONS]
                if time == 7:
                    assert found == twin(path, 0, 9)
                if value == whole[at] ^ 1:
                    assert list(members_of(path)) == one_by_one(path)
            file.seek(at)
            file.write(whole[at : at + 1])
            file.flush()
    padding = {at for at in believed if whole[at] == 0}
    assert all(whole[at : at + 1] in b"0123456789.mac" for at in believed - padding), "not of a time"


def written(path: Path, samples: int, time: float) -> None:
    with webdataset.TarWriter(str(path), compress=False, mtime=time) as writer:
        for number in range(samples):
            writer.write({"__key__": f"{number:03d}", "jpg": b"j" * 1500, "seg.txt": b"", "json": b"{}"})


LOOKED = [
    *COMMON.values(),
    *UNUSUAL.values(),
    b"",
    b"a caption",
    "\u00fcn\u00ef".encode(),
    b"\xe9",
    b"a" * HEAD,
    b"a" * (HEAD + 1),
    b'{"caption": 1}',
    b' {"b": [1, {"caption": 2}], "c": 3}\n',
    b'{"c": "' + b"x" * HEAD + b'"}',
    b'{"c": NaN}',
    b'{"c": "\xff"}',
    b"[1]",
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from(LOOKED), min_size=3, max_size=3), min_size=1, max_size=6),
    st.lists(st.sampled_from("ptm-"), min_size=3, max_size=3),
    st.sampled_from([0, 100, MAX_PIXELS]),
)
@compiled
def test_a_look_tells_what_is_told_of_first_bytes(
    tmp_path: Path, members: list[list[bytes]], kinds: list[str], most: int
) -> None:
    path, names = tmp_path / "t.tar", (b"b", b"c", b"caption")
    with tarfile.open(path, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(members):
            for data, extension in zip(sample, EXTENSIONS, strict=True):
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    plain = alike(open_source(path), 0, 9, EXTENSIONS)
    looked = alike(open_source(path), 0, 9, EXTENSIONS, Looks("".join(kinds).encode(), most, names))
    assert (looked.keys, looked.offsets.tolist(), looked.sizes.tolist()) == told(plain)[:3]
    for at, kind in enumerate(kinds):
        for sample, head, seen, found in zip(
            members, plain.heads[at], looked.told[:, at], looked.heads[at], strict=True
        ):
            data = sample[at]
            whole = head == data
            expected = [0, 0, 0]
            if kind == "p":
                expected = glances([head or b""], max_pixels=most)[0].tolist()
            elif kind == "t" and whole:
                expected[2] = int(decodes(data))
            elif kind == "m" and whole and (named := calls().named([data], names)[0]) >= 0:
                expected = [named, 0, 1]
            assert seen.tolist() == expected
            assert found == (None if expected[2] else head)


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@compiled
def test_a_tar_that_is_cut_while_it_is_read_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    written(path, 3, 7.5)
    source = open_source(path)
    size = path.stat().st_size
    for cut in range(0, size, 300):
        with open(path, "r+b") as file:
            file.truncate(size - cut)
        handle = source.open().number  # type: ignore[attr-defined]
        of = (handle, 0, size, 9, (b".jpg", b".json", b".seg.txt"), 4096, HEAD)
        keys, heads, places, told = calls().alike(*of, None)
        assert len(keys) == len(heads[2]) == len(places) // 48 == len(told) // 36 <= 3
        assert not any(told)
        assert all(len(head) == HEAD for head in heads[0])
