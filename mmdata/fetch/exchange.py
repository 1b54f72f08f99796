"""One request and its response: in turn, to an address that may be talked to, within its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
from yarl import URL

from mmdata.fetch.address import Resolver
from mmdata.fetch.breaker import Breaker
from mmdata.fetch.connection import FRESH, Connector, Handler, Request, once
from mmdata.fetch.failure import Dropped, FetchError, Garbled, explain, status_error
from mmdata.fetch.limits import Limits
from mmdata.fetch.retry import retry_after
from mmdata.fetch.url import Origin, host_of, origin_of
from mmdata.spec import FetchSpec

T = TypeVar("T")

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REFUSALS = frozenset({429, 503})
_BUFFER = 1 << 20  # Bytes of a body that may wait to be read before the connection is held back.
_HEADER = 1 << 16  # Longest header line accepted; some sites' content policies exceed aiohttp's 8 KiB.


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
        self._whole = self._timeout(spec.total_seconds)
        self._session = aiohttp.ClientSession(
            connector=Connector(resolver=resolver, limit=0, use_dns_cache=False, keepalive_timeout=5.0),
            request_class=Request,
            middlewares=(once,),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": spec.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=self._whole,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER,
            max_line_size=_HEADER,
            max_field_size=_HEADER,
        )

    async def close(self) -> None:
        await self._session.close()
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
        read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
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
        response: aiohttp.ClientResponse | None = None
        handler: Handler | None = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            tally.requests += 1
            response = await self._session.get(
                url,
                allow_redirects=False,
                headers=FRESH if fresh else None,
                timeout=self._whole if seconds is None else self._timeout(seconds),
            )
            self._breaker.answered(origin)
            self._limits.heard(host, ticket)
            tally.status = response.status
            connection = response.connection
            if connection is not None and isinstance(connection.protocol, Handler):
                handler = connection.protocol
            if response.status not in _REFUSALS:
                self._limits.accepted(host)
            return await read(response)
        except FetchError:
            raise
        except (aiohttp.ClientError, Dropped, Garbled, OSError, ValueError) as error:
            failure = explain(error, lost=None if handler is None else handler.lost)
            self._failed(origin, failure)
            raise failure from error
        finally:
            if response is not None:
                response.release()
            self._limits.done(host, ticket)
            tally.seconds += loop.time() - began

    def refusal(self, response: aiohttp.ClientResponse) -> FetchError:
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

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        spec = self._spec
        return aiohttp.ClientTimeout(total=seconds, sock_connect=spec.connect_seconds, sock_read=spec.read_seconds)

    def _failed(self, origin: Origin, error: FetchError) -> None:
        if self._breaker.failed(origin, error):
            self._limits.recall(host_of(origin))
