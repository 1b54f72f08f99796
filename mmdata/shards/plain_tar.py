"""Plain members of another's tar, many at a time: their headers are looked at together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from mmdata.native.calls import calls
from mmdata.shards.access import Source, local_path
from mmdata.shards.foreign_tar import BLOCK, FAR, GLANCE
from mmdata.shards.local import LocalSource

HEAD = 1 << 10
"""Bytes of each member that are kept at hand."""
MOST_EACH = 64
"""Members of a sample of which members.c takes many."""
_OCTAL = 8 ** np.arange(5, -1, -1)
KEY = re.compile(r"[\w=,+@~-][\w=,+@~/-]*", re.ASCII)
"""Keys that nothing can be wrong with but their length."""


class Alike(NamedTuple):
    """N samples that follow each other, each of the same E members."""

    keys: list[str]
    offsets: np.ndarray
    """int64 [N, E]"""
    sizes: np.ndarray
    """int64 [N, E]"""
    heads: Sequence[list[bytes | None]]
    """The first bytes of each first member, of each second one, and so on; None where a look has told enough."""
    told: np.ndarray
    """int32 [N, E, 3]: what a look tells, the last of the three 0 where it tells nothing. Of a picture height, width
    and components as `decode.glance.glances` has them; of a text, which is UTF-8, 0, 0 and 1; of a JSON object the sum
    of 1 << n of the names n that it has, 0 and 1."""


class Looks(NamedTuple):
    """What is to be told of members at a look, where that is compiled."""

    kinds: bytes
    """Of each member `p` for a picture, `t` for a text, `m` for a JSON object, any other for nothing."""
    max_pixels: int
    names: tuple[bytes, ...]


def alike(source: Source, at: int, most: int, extensions: Sequence[str], looks: Looks | None = None) -> Alike:
    """At most so many samples from the header at byte `at` on, up to the first that has not these members in order, all
    plain as `plain_run` says, or whose key is no `KEY` or that of a member which is passed over. Members whose
    times stand in extended headers may be among them, or end it."""
    each, suffixes = len(extensions), [f".{extension}".encode() for extension in extensions]
    compiled = calls()
    if compiled is not None and isinstance(source, LocalSource) and each <= MOST_EACH:
        handle = source.open()  # held while it is read
        of = (handle.number, at, source.size, most, tuple(suffixes), GLANCE, HEAD)
        keys, heads, places, seen = compiled.alike(*of, None if looks is None else tuple(looks))
        found, told = np.frombuffer(places, np.int64), np.frombuffer(seen, np.int32).reshape(len(keys), each, 3)
        found = found.reshape(len(keys), each, 2)
        return Alike(keys, found[:, :, 0], found[:, :, 1], heads, told)
    run = plain_run(source, at, each * most)
    names = [name.removesuffix(suffixes[0]) for name in run.names[::each]]
    count = len(run.names) // each
    for place, suffix in enumerate(suffixes):
        pairs = zip(names[:count], run.names[place::each], strict=False)
        count = len(list(takewhile(lambda pair: pair[0] + suffix == pair[1], pairs)))  # noqa: B023 used at once
    keys = list(takewhile(_plain_key, (str(name, "ascii") for name in names[:count])))
    offsets, sizes = (values[: each * len(keys)].reshape(-1, each) for values in (run.offsets, run.sizes))
    firsts: list[list[bytes | None]] = [[*run.heads[place::each][: len(keys)]] for place in range(each)]
    return Alike(keys, offsets, sizes, firsts, np.zeros((len(keys), each, 3), np.int32))


def _plain_key(key: str) -> bool:
    return bool(KEY.fullmatch(key)) and not key.startswith("__") and "/__" not in key


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
    name and header ASCII, no slash at its end, its numbers as POSIX writes them, its checksum right, and all of it
    there. `TarPass` reads the same members, and says what is wrong with others."""
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
    names = list(takewhile(lambda name: not name.endswith(b"/"), names))  # such a one is a folder, whatever its type
    count = len(names)
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
