from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.decode import video
from mmdata.errors import DataError
from mmdata.shards import index, packet_table
from mmdata.types import Media, Packets
from tests.decode.clips import KINDS, clip


def same(a: Packets, b: Packets) -> bool:
    alike = a.time_base == b.time_base and np.array_equal(a.pts, b.pts) and np.array_equal(a.flags, b.flags)
    return alike and a.pts.dtype == b.pts.dtype == np.int64 and a.flags.dtype == b.flags.dtype == np.uint8


@given(
    st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 7)), min_size=1, max_size=50),
    st.integers(1, 2**31 - 1),
)
def test_any_table_comes_back(rows: list[tuple[int, int]], denominator: int) -> None:
    pts = np.array([time for time, _ in rows], np.int64)
    table = Packets(time_base=(1, denominator), pts=pts, flags=np.array([flag for _, flag in rows], np.uint8))
    data = packet_table.to_bytes(table)
    assert same(packet_table.from_bytes(data), table)
    assert packet_table.to_bytes(packet_table.from_bytes(data)) == data


@pytest.mark.parametrize("kind", ["cfr", "vfr", "open gop", "h264 in avi"])
def test_a_videos_table_comes_back_as_the_demuxer_gives_it(kind: str) -> None:
    table = video.read_packets(clip(**KINDS[kind]))
    assert same(packet_table.from_bytes(packet_table.to_bytes(table)), table)


def test_ten_minutes_are_small_even_with_irregular_times() -> None:
    rng = np.random.default_rng(0)
    steps = rng.choice([512, 1024, -512, 2048], 18_000)
    flags = rng.choice(np.array([0, 2], np.uint8), 18_000)
    noisy = Packets(time_base=(1, 15_360), pts=steps.cumsum(), flags=flags)
    assert len(packet_table.to_bytes(noisy)) < 12_000
    steady = Packets(time_base=(1, 15_360), pts=np.arange(18_000) * 512, flags=np.zeros(18_000, np.uint8))
    assert len(packet_table.to_bytes(steady)) < 250


def test_damage_is_named() -> None:
    data = packet_table.to_bytes(video.read_packets(clip()))
    refused = 0
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]):
            try:
                packet_table.from_bytes(damaged)
            except DataError as error:
                refused += error.reason == "packet_table"
    assert refused > 1.9 * len(data)  # zlib's own checksum sees to the stream; a few of its bits mean nothing.
    bomb = bytes([packet_table.VERSION]) + zlib.compress(bytes(1 << 28), 9)
    with pytest.raises(DataError, match="packet_table"):
        packet_table.from_bytes(bomb)


def part(**facts: Any) -> index.Part:
    return index.Part(name="mp4", kind="video", offset=512, size=9, crc32c=1, format="mp4", verified="full", **facts)


def test_the_index_holds_the_new_facts_and_covers_them_by_its_checksum(tmp_path: Path) -> None:
    table = video.read_packets(clip())
    facts = {"samples": 2**33, "packets": packet_table.to_bytes(table), "marks": [("keys", [0, 12]), ("scenes", [])]}
    row = index.IndexRow(key="a", row=0, origin="x", origin_row=0, parts=(part(**facts),))
    path = tmp_path / "000000.arrow"
    path.write_bytes(index.to_bytes([row]))
    assert index.to_bytes([row]) == path.read_bytes()
    media = index.Index(path).row(0).parts[0].to_part(None)
    assert isinstance(media, Media)
    assert media.packets is not None
    assert same(media.packets, table)
    assert (media.samples, dict(media.marks)) == (2**33, {"keys": (0, 12), "scenes": ()})
    checks = {row.crc32c()}
    for name, value in (("samples", 1), ("packets", b"\1"), ("marks", [("keys", [0, 13])]), ("packets", None)):
        changed = index.IndexRow(key="a", row=0, origin="x", origin_row=0, parts=(part(**{**facts, name: value}),))
        checks.add(changed.crc32c())
    assert len(checks) == 5


def test_the_checksum_of_a_row_is_that_of_its_json() -> None:
    """Spelled out once more: pieces of the JSON are kept between rows, and must be those that belong there."""
    media = [part(seconds=value, sha256=digest) for value in (1, 1.0) for digest in (None, "ab" * 32)]
    texts = [
        index.Part(name='"\u00e9".txt', kind="text", offset=0, size=3, crc32c=5, role=role, train=train)
        for role in ("user", "assistant")
        for train in (True, False)
    ]
    inline = index.Part(name="", kind="text", offset=0, size=0, crc32c=1, role="caption", train=True, inline=b"\1a")
    meta = index.Part(name="json", kind="meta", offset=9, size=2, crc32c=7)
    for parts in ([], [*media, *texts, inline, meta], [*reversed(media), *reversed(texts), meta]):
        row = index.IndexRow(key="k", row=3, origin="o", origin_row=4, parts=tuple(parts), signatures={"b": b"\2"})
        value = ["k", 3, "o", 4, [list(one) for one in parts], [["b", "02"]]]
        told = json.dumps(value, separators=(",", ":"), default=bytes.hex)
        assert row.crc32c() == crc32c.crc32c(told.encode())
