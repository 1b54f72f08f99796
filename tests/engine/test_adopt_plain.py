"""Samples that are taken by the first bytes of their members are those that are taken with all of them."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdata import ledger
from mmdata.engine import commit
from mmdata.engine.adopt import Digest, Unit, adopt
from mmdata.ledger import LedgerRow
from mmdata.shards.index import Index, IndexRow
from tests.dataset_fixture import jpeg
from tests.decode.test_glance import COMMON, UNUSUAL

KEYS = ["000000001", "a", "dir/b", "./c", "../up", "two words", "名前", "odd\x07", "_d", "__e", "k" * 90, "/root"]
VALUES: list[Any] = [{"w": 1}, {"caption": "c"}, {"TEXT": 3}, [1], 5, "caption", {"a": {"messages": []}}]
MEMBERS: dict[str, list[bytes]] = {
    "jpg": [*COMMON.values(), *UNUSUAL.values(), jpeg(0)[0], jpeg(1)[0][:300], b"", b"<html>"],
    "png": [COMMON["png"], COMMON["jpeg"], COMMON["png"][:-3]],
    "0.JPG": [jpeg(2)[0], COMMON["icc"]],
    "txt": [b"a caption", "ünï".encode(), "é".encode("latin-1"), b""],
    "caption": [b"another"],
    "json": [
        *(json.dumps(value).encode() for value in VALUES),
        json.dumps({"conversations": [{"from": "human", "value": "Hi"}]}).encode(),
        json.dumps([{"from": "human", "value": "<image>Hi"}, {"from": "gpt", "value": "Ho"}]).encode(),
        b'{"cap\\u0074ion": "hidden"}',
        b'{"conv\\u0065rsations": [{"from": "human", "value": "Hi"}]}',
        b'{"a": [1',
        b"2]}",
        b'{"a": 1}, {"b": 2}',
        b"",
        b" {} ",
        b'{"a": NaN}',
        rb'[{"from": "human", "value": "\ud800"}]',
        rb'{"caption": "\ud800"}',
        json.dumps({"caption": "sixteen"}).encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b"[" * 100_000,
    ],
    "npy": [b"123"],
    "heic": [b"123"],
    "info.json": [b"{not"],
}
"""Bytes that a member of each extension may have."""


def tar(path: Path, seed: int, count: int) -> None:
    """Samples drawn from the above: most of them plain ones, some as odd as they get."""
    draw = np.random.default_rng(seed)
    form = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT][seed % 3]
    with tarfile.open(path, "w", format=form) as out:
        for number in range(count):
            odd = draw.random() < 0.4
            key = KEYS[int(draw.integers(len(KEYS)))] if odd else f"{number:05d}"
            kinds = draw.choice(list(MEMBERS), int(draw.integers(1, 5))).tolist() if odd else ["jpg", "txt", "json"]
            for kind in kinds:
                options = MEMBERS[kind]
                data = options[int(draw.integers(len(options)))] if odd else options[0]
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                if draw.random() < 0.05:
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                out.addfile(info, io.BytesIO(data))


def adopted(folder: Path, path: Path, digest: Digest, **unit: Any) -> tuple[list[IndexRow], list[LedgerRow], bytes]:
    """Rows of index and ledger without the sums of media, and the index file, or nothing."""
    commit.prepare(folder)
    own = Unit(number=0, uri=str(path), name="t.tar", input_first=70, **unit)
    with ThreadPoolExecutor(1) as pool:
        entry, fates = adopt(folder, own, verify="header", keys={"00003": "an earlier tar"}, pool=pool, digest=digest)
    commit.record_ends(folder, entry, fates.ends)
    commit.publish(folder, entry)
    listed = ledger.read_rows(folder / entry.ledger)
    assert sum(fates.ends.values()) == len(listed) == len(fates)
    if entry.index is None:
        return [], listed, b""
    rows = Index(folder / entry.index, crc32c=entry.index_crc32c, trusted=False).rows()
    return rows, listed, (folder / entry.index).read_bytes()


def bare(rows: list[IndexRow]) -> list[IndexRow]:
    return [replace(row, parts=tuple(part._replace(crc32c=None, sha256=None) for part in row.parts)) for row in rows]


@pytest.mark.parametrize("seed", range(12))
def test_rows_and_fates_are_those_of_the_whole_members(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "t.tar"
    tar(path, seed, count=60)
    if seed % 4 == 3:
        path.write_bytes(path.read_bytes()[:-9_999])
    excluded = frozenset((2, 5, 9)) if seed % 2 else frozenset()
    whole, told, _ = adopted(tmp_path / "sha256", path, "sha256", excluded=excluded)
    summed, ends, _ = adopted(tmp_path / "crc32c", path, "crc32c", excluded=excluded)
    unsummed, others, _ = adopted(tmp_path / "none", path, "none", excluded=excluded)
    expected = [replace(row, parts=tuple(part._replace(sha256=None) for part in row.parts)) for row in whole]
    assert len(whole) > 10
    assert summed == expected
    assert unsummed == bare(whole)
    assert ends == others == [replace(row, sha256=None) for row in told]


def test_many_together_are_those_taken_one_by_one(tmp_path: Path) -> None:
    """Hundreds of samples alike, and among them each oddity that ends a run."""
    picture, long = jpeg(3)[0], b"word " * 900
    odd: dict[int, list[tuple[str, bytes]]] = {
        5: [("00003.jpg", picture), ("00003.txt", b"the same key"), ("00003.json", b"{}")],  # an earlier tar's
        90: [("00090.jpg", picture), ("00090.txt", b"t"), ("00090.json", b"{}"), ("00090.cls", b"1")],
        91: [("00091.jpg", picture), ("00091.txt", b"t")],
        120: [("00120.jpg", picture), ("00120.txt", b"t"), ("00120.json", b'{"a": [1')],
        121: [("00121.jpg", picture), ("00121.txt", b"t"), ("00121.json", b"2]}")],
        140: [("00140.jpg", b"<html>"), ("00140.txt", b"t"), ("00140.json", b"{}")],
        160: [("00160.jpg", picture), ("00160.txt", b"\xff"), ("00160.json", b"{}")],
        180: [("00179.jpg", picture), ("00179.txt", b"again"), ("00179.json", b"{}")],
        200: [("00200.jpg", COMMON["png"]), ("00200.txt", long), ("00200.json", b'{"a": "' + long + b'"}')],
        220: [("00220.jpg", COMMON["progressive"]), ("00220.txt", b"t"), ("00220.json", b'{"messages": 1}')],
        240: [("__x.jpg", picture), ("__x.txt", b"t"), ("__x.json", b"{}")],
        260: [("ü/260.jpg", picture), ("ü/260.txt", b"t"), ("ü/260.json", b"{}")],
        280: [("00280.jpg", UNUSUAL["turned"]), ("00280.txt", b"t"), ("00280.json", b'{"messages": []}')],
        300: [("00300.JPG", picture), ("00300.txt", b"t"), ("00300.json", b"5")],
    }
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for number in range(420):
            plain = [(f"{number:05d}.jpg", picture), (f"{number:05d}.txt", b"t"), (f"{number:05d}.json", b'{"n": 1}')]
            for name, data in odd.get(number, plain if number != 3 else []):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if number in (330, 331):
                    info.pax_headers = {"path": f"renamed/{name}"}
                out.addfile(info, io.BytesIO(data))
    whole, told, _ = adopted(tmp_path / "sha256", path, "sha256")
    unsummed, ends, _ = adopted(tmp_path / "none", path, "none")
    assert unsummed == bare(whole)
    assert ends == [replace(row, sha256=None) for row in told]
    assert {row.reason for row in told} >= {"duplicate_key", "bad_record", "html_not_image", "text_not_utf8"}
    # A damaged header far behind: what comes before it is whole.
    place = unsummed[350].parts[0].offset - 512
    with path.open("r+b") as file:
        file.seek(place + 3)
        file.write(b"!")
    whole, told, _ = adopted(tmp_path / "damaged sha256", path, "sha256")
    unsummed, ends, _ = adopted(tmp_path / "damaged none", path, "none")
    assert len(whole) == 349  # of the one before nobody can say that it was whole
    assert unsummed == bare(whole)
    assert ends == [replace(row, sha256=None) for row in told]
    assert (ends[-1].reason, str(place) in ends[-1].detail) == ("shard_header", True)
