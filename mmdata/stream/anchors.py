"""The anchor log: after how many packs a stream stood where, so that any step is found without replanning the run."""

from __future__ import annotations

import bisect
import json
import os
from pathlib import Path
from typing import Any

from mmdata.errors import RunError

NAME = "anchors-{epoch}.jsonl"
KEPT = 4096
"""Anchors in memory; beyond, every other one is forgotten, and only half as many are kept from then on."""


class Anchors:
    """Pairs of (packs taken since a run began, JSON value of the position there), ascending, for one stream.

    `folder` keeps them for later processes, one file per epoch that runs began with; without it they last as long as
    this object. A file is a cache of integers: one that belongs to another stream (`digest`) is begun anew, and a line
    that a kill cut is not read. Looking up is a binary search, in memory and in the file, which is never read whole.
    """

    def __init__(self, digest: str, *, folder: Path | None = None, first_epoch: int = 0) -> None:
        self._head = json.dumps({"stream": digest, "first_epoch": first_epoch}).encode() + b"\n"
        self._path = None if folder is None else folder / NAME.format(epoch=first_epoch)
        self._counts: list[int] = []
        self._places: list[Any] = []
        self._every = 1
        self._seen = 0
        self._last: int | None = None

    def add(self, count: int, place: Any, *, write: bool) -> None:
        """Remember where the stream stands after `count` packs. Of several processes that find the same anchors one
        should `write` them to the folder."""
        if not self._counts or count > self._counts[-1]:
            if self._seen % self._every == 0:
                self._counts.append(count)
                self._places.append(place)
            self._seen += 1
            if len(self._counts) > KEPT:
                self._counts, self._places, self._every = self._counts[::2], self._places[::2], self._every * 2
        if write and self._path is not None:
            self._append(self._path, count, place)

    def before(self, count: int) -> tuple[int, Any]:
        """The last known anchor at or before `count` packs: its count and place; (0, None) where there is none."""
        at = bisect.bisect_right(self._counts, count) - 1
        known = [(self._counts[at], self._places[at])] if at >= 0 else []
        stored = None if self._path is None else _search(self._path, self._head, count)
        return max([*known, *([] if stored is None else [stored])], key=lambda anchor: anchor[0], default=(0, None))

    def _append(self, path: Path, count: int, place: Any) -> None:
        try:
            if self._last is None:
                self._last = _begin(path, self._head)
            if count > self._last:
                with open(path, "ab") as file:
                    file.write(json.dumps([count, place]).encode() + b"\n")
                self._last = count
        except OSError as error:
            raise RunError(f"{path}: the anchors of the run cannot be written: {error}") from error


def _begin(path: Path, head: bytes) -> int:
    """Make the file one of this stream's that ends with a whole line; answers the count of its last anchor, or -1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        if file.read(len(head)) != head:
            file.truncate(0)
            file.write(head)
            return -1
        size = _whole(file.fileno(), len(head))
        file.truncate(size)
        if size == len(head):
            return -1
        start = _line_start(file.fileno(), size - 1, len(head))
        return int(json.loads(_line(file.fileno(), start))[0])


def _search(path: Path, head: bytes, count: int) -> tuple[int, Any] | None:
    """The last anchor of a file at or before `count`, by bisecting its bytes."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if os.pread(file, len(head), 0) != head:
            return None
        low, high, found = len(head), _whole(file, len(head)), None
        while low < high:  # anchors before `low` are at or before `count`, those from `high` on are after it
            start = _line_start(file, (low + high) // 2, low)
            line = _line(file, start)
            at, place = json.loads(line)
            if at <= count:
                found, low = (int(at), place), start + len(line)
            else:
                high = start
        return found
    finally:
        os.close(file)


def _whole(file: int, least: int) -> int:
    """Where the last whole line of a file ends."""
    size = os.fstat(file).st_size
    return _line_start(file, size, least) if size > least and os.pread(file, 1, size - 1) != b"\n" else size


def _line_start(file: int, at: int, least: int) -> int:
    """Where the line begins that holds byte `at`; not before `least`."""
    step = 256
    while True:
        start = max(least, at - step)
        newline = os.pread(file, at - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        if start == least:
            return least
        step *= 2


def _line(file: int, start: int) -> bytes:
    size = 256
    while b"\n" not in (data := os.pread(file, size, start)):
        size *= 2
    return data[: data.index(b"\n") + 1]
