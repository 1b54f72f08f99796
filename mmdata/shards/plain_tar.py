"""Plain members of another's tar, many at a time: their headers are looked at together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmdata.shards.access import Source, local_path
from mmdata.shards.foreign_tar import BLOCK, FAR, GLANCE

HEAD = 1 << 10
"""Bytes of each member that are kept at hand."""
_OCTAL = 8 ** np.arange(5, -1, -1)


class PlainRun(NamedTuple):
    """N members that follow each other: names as they stand in the headers, and the first bytes of each."""

    names: list[bytes]
    offsets: np.ndarray
    """int64 [N]"""
    sizes: np.ndarray
    """int64 [N]"""
    heads: list[bytes]


def plain_run(source: Source, at: int, most: int) -> PlainRun:
    """At most so many members from the header at byte `at` on, up to the first that is not plain: a regular file, its
    name and header ASCII, its numbers as POSIX writes them, its checksum right, and all of it there. `TarPass` reads
    the same members, and says what is wrong with others."""
    chunk, end = GLANCE if local_path(source.uri) is not None else FAR, source.size
    base, buffer = at, b""
    headers: list[bytes] = []
    heads: list[bytes] = []
    places: list[int] = []
    sizes: list[int] = []
    while len(headers) < most:
        place = at - base
        header = buffer[place : place + BLOCK]
        if len(header) < BLOCK:
            if at + BLOCK > end:
                break
            base, buffer, place = at, source.read(at, min(chunk, end - at)), 0
            header = buffer[:BLOCK]
        try:
            size = int(header[124:135], 8)  # of digits alone, as is seen below
        except ValueError:
            break
        if size < 0:
            break
        first = at + BLOCK
        at = first + size + (-size % BLOCK)
        if at > end:
            break
        kept = size if size < HEAD else HEAD
        place += BLOCK
        head = buffer[place : place + kept]
        if len(head) < kept:
            base, buffer = first, source.read(first, min(chunk, end - first))
            head = buffer[:kept]
        headers.append(header)
        heads.append(head)
        places.append(first)
        sizes.append(size)
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(len(headers), BLOCK)
    count = _plain(table)
    names = np.ascontiguousarray(table[:count, :100]).view("S100").ravel().tolist() if count else []
    return PlainRun(names, np.array(places[:count], np.int64), np.array(sizes[:count], np.int64), heads[:count])


def _plain(table: np.ndarray) -> int:
    """How many headers, uint8 [N, 512], are plain ones before the first that is not."""
    kind, said, length = table[:, 156], table[:, 148:154] - np.uint8(48), table[:, 124:135] - np.uint8(48)
    sums = table.sum(axis=1, dtype=np.uint16)  # of 512 bytes below 128, as are asked for: 65,024 at most
    total = sums - table[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    names = table[:, :100] == 0
    good = (
        ((kind == ord("0")) | (kind == 0))
        & (table[:, 345] == 0)
        & ((table[:, 135] == 0) | (table[:, 135] == ord(" ")))
        & (table < 128).all(axis=1)
        & (said < 8).all(axis=1)
        & (length < 8).all(axis=1)
        & (table[:, 154] == 0)
        & (table[:, 155] == ord(" "))
        & (said @ _OCTAL == total)
        & (table[:, 0] != 0)
        & (names[:, 1:] >= names[:, :-1]).all(axis=1)  # nothing behind the zero that ends the name
    )
    return len(good) if bool(good.all()) else int(good.argmin())
