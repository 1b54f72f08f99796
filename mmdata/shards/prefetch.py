"""Remote bytes read ahead by plan: who knows what it will ask for says so, and finds it there when it asks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Literal, Protocol

from mmdata.errors import DataError
from mmdata.shards.cache import Cache
from mmdata.shards.ranges import Range, coalesce

WHOLE_SHARE = 0.5
"""When so much of a file is wanted, it is downloaded whole."""
GAP_BYTES = 256 << 10
"""Bytes between two ranges that are read along: a request to an object store takes the time of about so many."""
READ_BYTES = 8 << 20
"""Longest read that is made of several ranges."""
LOOK_AHEAD = 1024
"""Requests, from the first that waits on, among which those are sought that can share a read."""
CLOSE_SECONDS = 5.0


class Keepable(Protocol):
    """What is read ahead: a `RemoteSource`, or what is like one."""

    uri: str
    size: int

    def fetch(self, offset: int, size: int) -> bytes:
        """The bytes, from the cache or by a request."""

    def keep(self) -> bool:
        """Have the whole file in the cache; whether it is there."""


@dataclass(frozen=True, slots=True)
class Request:
    """Bytes `offset` to `offset + size` of a source."""

    source: Keepable
    offset: int
    size: int

    @property
    def key(self) -> tuple[str, int, int]:
        return self.source.uri, self.offset, self.size


@dataclass(slots=True, eq=False)
class Piece:
    """A request on its way."""

    request: Request
    state: Literal["waiting", "reading", "ready", "gone"] = "waiting"
    data: bytes | None = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _File:
    """`wanted` counts bytes that are asked for and not handed over, in so many `pieces`, some of which may be empty.
    `whole` files are read where they are kept."""

    size: int
    wanted: int = 0
    pieces: int = 0
    plan: Literal["undecided", "keeping", "whole", "ranges"] = "undecided"


@dataclass(slots=True)
class Stats:
    """`requests` were handed over, of which some were `waited` for, and some not even begun (`direct`). `reads` of
    `bytes` in all were made ahead, and `whole` files kept. `most_ahead` bytes were in flight or waiting at a time."""

    requests: int = 0
    waited: int = 0
    direct: int = 0
    reads: int = 0
    bytes: int = 0
    whole: int = 0
    most_ahead: int = 0


class Prefetcher:
    """Reads what is wanted, in the order in which it is wanted: `threads` reads at a time, and at most `ahead_bytes`
    in flight or waiting to be handed over (one longer read is let through alone).

    Ranges of a file that lie near each other share a read. With a `cache`, a file of which at least half is wanted, or
    `expect`ed to be, is downloaded whole, while all such files fit into the cache together. Any thread may ask. What
    was wanted must be asked for or released: until then it takes its room.

        with Prefetcher(cache=cache) as ahead:
            ahead.want(requests)
            for request in requests:
                data = ahead.get(request)
    """

    def __init__(self, *, cache: Cache | None = None, ahead_bytes: int = 256 << 20, threads: int = 8) -> None:
        self.stats = Stats()
        self._keep_bytes = 0 if cache is None else cache.limit_bytes
        self._ahead_bytes = ahead_bytes
        self._ahead = 0
        self._waiting: dict[int, Piece] = {}  # by id, in the order of the plan
        self._pieces: dict[tuple[str, int, int], deque[Piece]] = {}
        self._files: dict[str, _File] = {}
        self._expected: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"mmdata-ahead-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def expect(self, shares: Mapping[str, int]) -> None:
        """Say how many bytes of which files (by URL) will be wanted by and by, in place of what was said before. It
        decides which are worth keeping whole; nothing is read before it is wanted."""
        with self._changed:
            self._expected = dict(shares)

    def want(self, requests: Iterable[Request]) -> list[Piece]:
        """Say what will be asked for next, in this order. The same request may be wanted several times."""
        pieces = [Piece(request) for request in requests]
        with self._changed:
            for piece in pieces:
                request = piece.request
                self._waiting[id(piece)] = piece
                self._pieces.setdefault(request.key, deque()).append(piece)
                file = self._files.setdefault(request.source.uri, _File(request.source.size))
                file.wanted += request.size
                file.pieces += 1
            self._changed.notify_all()
        return pieces

    def get(self, request: Request) -> bytes:
        """The bytes of a request, once for each time it was wanted. Raises what reading raised: DataError, RunError."""
        data = self.take(request.key)
        return data if data is not None else request.source.fetch(request.offset, request.size)

    def take(self, key: tuple[str, int, int]) -> bytes | None:
        """The bytes of a wanted request by URL, offset and size; None when it was not wanted, has not been begun, or is
        of a file that is kept whole: then the caller reads it, and it is done with. Raises as `get` does."""
        with self._changed:
            queue = self._pieces.get(key)
            if not queue:
                return None
            piece = queue.popleft()
            if not queue:
                del self._pieces[key]
            self.stats.requests += 1
            if piece.state == "reading":
                self.stats.waited += 1
                while piece.state == "reading":
                    if self._closed:
                        raise ValueError("the prefetcher was closed while a request was waited for")
                    self._changed.wait()
            elif piece.state == "waiting" and self._file(piece).plan != "whole":
                self.stats.direct += 1
            self._done(piece)
            if piece.error is not None:
                raise piece.error
            return piece.data

    def release(self, pieces: Iterable[Piece]) -> None:
        """Say of what `want` answered that it will not be asked for any more; what was, stays as it is."""
        with self._changed:
            for piece in pieces:
                if piece.state != "gone" and piece in (queue := self._pieces.get(piece.request.key, deque())):
                    queue.remove(piece)
                    if not queue:
                        del self._pieces[piece.request.key]
                    self._done(piece)

    def close(self) -> None:
        """End the reading. Reads under way end in their own time; nothing is handed over any more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._pieces.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _done(self, piece: Piece) -> None:
        """A piece that nobody asks for any more gives its room back; one that is being read does so when it is."""
        file = self._files[piece.request.source.uri]
        file.wanted -= piece.request.size
        file.pieces -= 1
        if not file.pieces and file.plan != "keeping":
            del self._files[piece.request.source.uri]  # decided anew when more of it is wanted
        if piece.state == "waiting":
            self._waiting.pop(id(piece), None)
        elif piece.state == "ready" and piece.data is not None:
            self._ahead -= len(piece.data)
            self._changed.notify_all()
        piece.state = "gone"

    def _run(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                while job is None and not self._closed:
                    self._changed.wait()
                    job = self._next()
            if job is None:
                return
            if isinstance(job, Request):
                self._keep(job)
            else:
                self._read(*job)

    def _next(self) -> Request | tuple[Range, list[Piece]] | None:
        """The next thing to do: a file to keep (any request of it), or a read and the pieces that lie in it."""
        while not self._closed:
            # A file that is being kept is passed over: when it is there, its pieces need no read.
            looked = list(islice(self._waiting.values(), LOOK_AHEAD))
            head = next((piece for piece in looked if self._file(piece).plan != "keeping"), None)
            if head is None:
                return None
            file = self._file(head)
            if file.plan == "undecided" and self._is_worth_keeping(head.request.source.uri, file):
                file.plan = "keeping"
                return head.request
            if file.plan == "whole":
                del self._waiting[id(head)]
                continue
            near = [piece for piece in looked if piece.request.source.uri == head.request.source.uri]
            ranges = [Range(piece.request.offset, piece.request.offset + piece.request.size) for piece in near]
            reads = coalesce(ranges, gap=GAP_BYTES, limit=min(READ_BYTES, self._ahead_bytes))
            at = near.index(head)
            read, inside = next((read, inside) for read, inside in reads if at in inside)
            pieces = [near[number] for number in inside]
            if (size := _room(read, pieces)) > self._ahead_bytes:  # many that overlap
                read, pieces, size = ranges[at], [head], head.request.size
            if self._ahead and self._ahead + size > self._ahead_bytes:
                return None
            for piece in pieces:
                piece.state = "reading"
                del self._waiting[id(piece)]
            self._ahead += size
            self.stats.most_ahead = max(self.stats.most_ahead, self._ahead)
            return read, pieces
        return None

    def _file(self, piece: Piece) -> _File:
        return self._files[piece.request.source.uri]

    def _is_worth_keeping(self, uri: str, file: _File) -> bool:
        kept = sum(other.size for other in self._files.values() if other.plan in ("keeping", "whole"))
        much = max(file.wanted, self._expected.get(uri, 0)) >= WHOLE_SHARE * file.size
        return much and kept + file.size <= self._keep_bytes

    def _keep(self, request: Request) -> None:
        """Download a whole file. What fails here shows, or does not, when its pieces are read."""
        try:
            kept = request.source.keep()
        except Exception:
            kept = False
        with self._changed:
            file = self._files[request.source.uri]
            file.plan = "whole" if kept else "ranges"
            self.stats.whole += kept
            if not file.pieces:
                del self._files[request.source.uri]
            self._changed.notify_all()

    def _read(self, read: Range, pieces: list[Piece]) -> None:
        source, size = pieces[0].request.source, read.end - read.start
        data: bytes | None = None
        error: Exception | None = None
        try:
            data = source.fetch(read.start, size)
        except Exception as problem:
            error = problem
        results: list[bytes | Exception] = []
        for piece in pieces:
            offset, length = piece.request.offset, piece.request.size
            if data is not None:
                results.append(data if length == size else data[offset - read.start : offset - read.start + length])
            elif isinstance(error, DataError) and len(pieces) > 1:
                results.append(self._alone(piece.request))  # not all of them need be where the damage is
            else:
                assert error is not None
                results.append(error)
        with self._changed:
            self.stats.reads += 1
            self.stats.bytes += size if data is not None else 0
            self._ahead -= _room(read, pieces)
            for piece, result in zip(pieces, results, strict=True):
                if isinstance(result, Exception):
                    piece.error = result
                elif piece.state == "reading":
                    piece.data = result
                    self._ahead += len(result)
                if piece.state == "reading":
                    piece.state = "ready"
            self._changed.notify_all()

    @staticmethod
    def _alone(request: Request) -> bytes | Exception:
        try:
            return request.source.fetch(request.offset, request.size)
        except Exception as error:
            return error


def _room(read: Range, pieces: list[Piece]) -> int:
    """Bytes that a read takes, or its pieces where they overlap."""
    return max(read.end - read.start, sum(piece.request.size for piece in pieces))
