"""One request and its response: in turn, to an address that may be talked to, within its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from yarl import URL

from mmdata.errors import SpecError
from mmdata.fetch.address import Resolver
from mmdata.fetch.breaker import Breaker
from mmdata.fetch.connection import Connection, Response
from mmdata.fetch.dial import Connections
from mmdata.fetch.failure import FetchError, status_error, transient
from mmdata.fetch.limits import Limits
from mmdata.fetch.retry import retry_after
from mmdata.fetch.url import Origin, host_of, origin_of
from mmdata.spec import FetchSpec

T = TypeVar("T")

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REFUSALS = frozenset({429, 503})
_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one record has cost so far."""

    requests: int = 0
    size: int = 0
    """Bytes of body received, all attempts together."""
    status: int | None = None
    seconds: float = 0.0
    """Time in which requests were under way: what `total_seconds` bounds, attempt by attempt."""


class Exchange:
    """Makes requests. Everything that is sent over HTTP(S), robots.txt included, goes through `ask`."""

    def __init__(self, spec: FetchSpec, resolver: Resolver) -> None:
        self._spec = spec
        self._resolver = resolver
        self._limits = Limits(concurrency=spec.concurrency, per_host=spec.per_host_concurrency, rate=spec.per_host_rate)
        self._breaker = Breaker()
        if not spec.user_agent.isprintable():
            raise SpecError(f"fetch.user_agent: {spec.user_agent!r} has characters that no header may have")
        self._about_us = f"User-Agent: {spec.user_agent}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n".encode()
        self._connections = Connections(resolver)

    async def close(self) -> None:
        self._connections.close()
        await self._resolver.close()

    async def admit(self, url: URL) -> None:
        """Raise FetchError if the host of `url` may not be asked, does not exist, or is taken to be unreachable."""
        await self._admit(origin_of(url))

    async def _admit(self, origin: Origin) -> None:
        self._breaker.check(origin)
        try:
            await self._resolver.check(origin[1])
        except FetchError as error:
            self._failed(origin, error)
            raise

    async def ask(
        self,
        url: URL,
        read: Callable[[Response], Awaitable[T]],
        tally: Tally,
        *,
        gap: float = 0.0,
        fresh: bool = False,
        seconds: float | None = None,
    ) -> T:
        """GET `url`, following no redirect, and return what `read` makes of the response.

        `gap` is the host's own wish for seconds between requests, `seconds` what is left of the attempt's time
        (waiting for a turn does not count). What `read` leaves of the body is not received. Raises FetchError.
        """
        origin = origin_of(url)
        host = host_of(origin)
        await self._admit(origin)
        while not (ticket := await self._limits.start(host, gap)):
            await self._admit(origin)
        connection: Connection | None = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        whole = self._spec.total_seconds if seconds is None else seconds
        try:
            tally.requests += 1
            connection = (None if fresh else self._connections.take(origin)) or await self._open(origin, whole)
            response = await connection.ask(
                self._request(url, origin, fresh=fresh),
                url,
                silence=self._spec.read_seconds,
                deadline=began + whole,
                last=fresh,
            )
            self._breaker.answered(origin)
            self._limits.heard(host, ticket)
            tally.status = response.status
            if response.status not in _REFUSALS:
                self._limits.accepted(host)
            return await read(response)
        finally:
            if connection is not None:
                self._connections.give_back(origin, connection)
            self._limits.done(host, ticket)
            tally.seconds += loop.time() - began

    async def _open(self, origin: Origin, whole: float) -> Connection:
        patience = self._spec.connect_seconds
        try:
            return await self._connections.open(origin, min(patience, whole))
        except FetchError as error:
            if error.reason == "connect_timeout" and whole < patience:
                error = transient("total_timeout", error.detail)
            self._failed(origin, error)
            raise error from None

    def _request(self, url: URL, origin: Origin, *, fresh: bool) -> bytes:
        """The request as it is sent. `parse_url` has seen to it that nothing in a URL can end a line."""
        scheme, host, port = origin
        named = f"[{host}]" if ":" in host else host
        if port != _PORTS[scheme]:
            named = f"{named}:{port}"
        end = b"Connection: close\r\n\r\n" if fresh else b"\r\n"
        return f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {named}\r\n".encode("ascii") + self._about_us + end

    def refusal(self, response: Response) -> FetchError:
        """The error for a response that is not the file; if it asks for time, its host is given some."""
        after = retry_after(response.headers.get("Retry-After"))
        if response.status in _REFUSALS and after is not None:
            spec, host = self._spec, host_of(origin_of(response.url))
            if after <= spec.backoff_max_seconds:
                self._limits.pause(host, after)
            else:
                self._limits.refused(host, spec.backoff_seconds, spec.backoff_max_seconds)
        detail = f"{response.status} {response.reason or ''}".strip()
        if after is not None:
            detail += f", Retry-After {after:g} s"
        return status_error(response.status, detail, after)

    def _failed(self, origin: Origin, error: FetchError) -> None:
        if self._breaker.failed(origin, error):
            self._limits.recall(host_of(origin))
