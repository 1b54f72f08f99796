"""A connection that serves one request after another, and the answer that is coming over it.

Written for this purpose: of general clients the fastest takes twice the time for a request. One is sent on the wire
for each that is made; whoever repeats it knows why. A verdict does not depend on how the network cuts an answer.
"""

from __future__ import annotations

import asyncio
from typing import cast

from multidict import CIMultiDictProxy
from yarl import URL

from mmdata.fetch.failure import FetchError, transient
from mmdata.fetch.framing import Chunks, Head, garbled, parse_head, split_head

_BUFFER = 1 << 20  # Bytes of a body that may wait to be read before the connection is held back.
_HINTS = 100  # Answers before the answer (RFC 9110, 15.2).


class Connection(asyncio.Protocol):
    """`idle`: it may be asked. `requests`: how many it has served or is serving."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: Response | None = None
        self._before = b""  # Of a head that has not ended.
        self._hints = 0
        self._heard = 0.0  # When the peer last said something, on the loop's clock.
        self._silence = self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lasting = True
        self.requests = 0
        self.since = 0.0
        """When it was last given back, on the loop's clock."""

    @property
    def idle(self) -> bool:
        transport = self._transport
        return self._answer is None and self._lasting and transport is not None and not transport.is_closing()

    async def ask(self, request: bytes, url: URL, *, silence: float, deadline: float, last: bool = False) -> Response:
        """Send a request and wait for the head of its answer; the connection is closed after the `last`.

        Raises FetchError: `reset`, `bad_response`, `read_timeout` after `silence` seconds without a byte,
        `total_timeout` at the `deadline` of the loop's clock. The body may raise these too, and `short_body`."""
        assert self._transport is not None
        self.requests += 1
        answer = self._answer = Response(self, url)
        self._before, self._hints = b"", 0
        self._lasting = not last
        self._heard = now = self._loop.time()
        self._silence, self._deadline = silence, deadline
        self._timer = self._loop.call_at(min(now + silence, deadline), self._on_time)
        self._transport.write(request)
        await answer.begun()
        return answer

    def close(self) -> None:
        """At once: nobody waits for what has not been said."""
        self._lasting = False
        self._stop_clock()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def hold_back(self, on: bool) -> None:
        """Take nothing more from the peer for now, or go on."""
        if self._transport is not None:
            if on:
                self._transport.pause_reading()
            else:
                self._heard = self._loop.time()
                self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # More than was declared, or a farewell: nothing that anybody has asked for.
            self.close()
            return
        self._heard = self._loop.time()
        try:
            while answer.head is None:
                found = split_head((self._before + data).lstrip(b"\r\n"))
                if found is None:
                    self._before += data
                    return
                self._before, data = b"", found[1]
                head = parse_head(found[0])
                if head.status >= 200 or head.status == 101:
                    answer.begin(head)
                elif (hints := self._hints) < _HINTS:
                    self._hints = hints + 1
                    if not data:
                        return
                else:
                    raise garbled(f"more than {_HINTS} answers before the answer")
            rest = answer.feed(data)
        except FetchError as error:
            self._fail(error)
            return
        if answer.complete:
            self._finish(lasting=answer.head.lasting and not rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        answer = self._answer
        if answer is None:
            return
        if answer.head is None:
            self._fail(transient("reset", "the connection closed before an answer", stale=self.requests > 1))
        elif exc is not None:
            self._fail(transient("reset", f"{type(exc).__name__}: {exc}"[:300]))
        elif answer.ends_with_connection:
            answer.end()
            self._finish(lasting=False)
        else:
            self._fail(transient("short_body", f"the connection closed after {answer.received:,} bytes"))

    def _finish(self, *, lasting: bool) -> None:
        self._answer = None
        self._stop_clock()
        self._lasting = self._lasting and lasting

    def _fail(self, error: FetchError) -> None:
        answer, self._answer = self._answer, None
        self.close()
        if answer is not None:
            answer.fail(error)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        """One timer for both limits, set anew only when it has run out: bytes come often."""
        now = self._loop.time()
        answer = self._answer
        if answer is None:
            return
        silent = self._heard + self._silence
        if now >= self._deadline:
            self._fail(transient("total_timeout", "not received in the time allowed"))
        elif now >= silent and not answer.held_back:
            self._fail(transient("read_timeout", f"nothing was heard for {self._silence:g} s"))
        else:
            later = self._deadline if now >= silent else min(silent, self._deadline)
            self._timer = self._loop.call_at(later, self._on_time)


class Response:
    """An answer, from its head on. What is not read of its body is not received."""

    def __init__(self, connection: Connection, url: URL) -> None:
        self.url = url
        self.head: Head | None = None
        self.complete = False
        self.received = 0
        """Bytes of the body so far, as they were sent."""
        self.held_back = False
        self._connection = connection
        self._chunks: Chunks | None = None
        self._left: int | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0  # Bytes in them.
        self._least = 0  # Bytes that the reader waits for.
        self._error: FetchError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def status(self) -> int:
        return self._told.status

    @property
    def reason(self) -> str:
        return self._told.reason

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._told.headers

    @property
    def length(self) -> int | None:
        """Bytes of the body, as declared."""
        return self._told.length

    @property
    def ends_with_connection(self) -> bool:
        return self._left is None and self._chunks is None

    async def read(self, least: int = 1) -> bytes:
        """The bytes that have come, at least so many (>= 1) but for the end of the body; none when it has ended."""
        while self._waiting < least and not self.complete:
            if self._error is not None:
                raise self._error
            self._least = least
            if self.held_back:
                self._hold_back(False)
            await self._wait()
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Do not receive the rest."""
        self._connection.close()

    # What its connection calls.

    async def begun(self) -> None:
        """Wait for the head."""
        while self.head is None:
            if self._error is not None:
                raise self._error
            await self._wait()

    def begin(self, head: Head) -> None:
        self.head = head
        self._left = head.length
        if head.chunked:
            self._chunks = Chunks()
        self.complete = head.length == 0
        self._wake()

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the body; what lies behind it."""
        rest = b""
        if self._chunks is not None:
            pieces = self._chunks.feed(data)
            self.complete, rest = self._chunks.complete, self._chunks.rest
            size = sum(map(len, pieces))
            self._pieces += pieces
        else:
            if self._left is not None:
                if len(data) > self._left:
                    data, rest = data[: self._left], data[self._left :]
                self._left -= len(data)
                self.complete = self._left == 0
            size = len(data)
            if data:
                self._pieces.append(data)
        self.received += size
        self._waiting += size
        if self.complete or self._waiting >= self._least:
            self._wake()
        if self._waiting > max(_BUFFER, self._least) and not self.complete and not self.held_back:
            self._hold_back(True)
        return rest

    def end(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, error: FetchError) -> None:
        self._error = error
        self._wake()

    @property
    def _told(self) -> Head:
        assert self.head is not None, "asked before the head has come"
        return self.head

    def _hold_back(self, on: bool) -> None:
        self.held_back = on
        self._connection.hold_back(on)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
