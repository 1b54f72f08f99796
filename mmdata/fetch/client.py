"""The door of fetching: a URI in, bytes or a reason out."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from yarl import URL

from mmdata.fetch.address import Resolver
from mmdata.fetch.body import read_body
from mmdata.fetch.consent import opt_out
from mmdata.fetch.exchange import REDIRECTS, Exchange, Tally
from mmdata.fetch.failure import FetchError, opted_out, transient
from mmdata.fetch.files import check_protocol, read_file
from mmdata.fetch.inside import Inside
from mmdata.fetch.retry import persist
from mmdata.fetch.robots import Robots, Rules
from mmdata.fetch.url import join_url, parse_url
from mmdata.optout import product_token
from mmdata.spec import FetchSpec
from mmdata.types import Drop, Place

try:
    import resource
except ImportError:  # Not a Unix: such systems set no such limit.
    resource = None  # type: ignore[assignment]

_BODIES = frozenset({200, 203})
_THREADS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What became of one record's media."""

    data: bytes | None
    """The body, decompressed; None when `drop` is set."""
    drop: Drop | None
    """Why there is none: failed_transient, failed_permanent or opted_out."""
    attempts: int
    """Requests made for this record, redirects included, robots.txt not; 0 when refused before any."""
    status: int | None
    """The last HTTP status."""
    seconds: float
    """Wall time, waits included."""
    size: int
    """Bytes of body received, all attempts together."""


class Fetcher:
    """Fetches what a spec allows, as politely as it says. Use as an async context manager; `get` may be called
    any number of times at once.

    The run's deadline counts from entering the context.
    """

    def __init__(self, spec: FetchSpec) -> None:
        self._spec = spec
        self._agent = product_token(spec.user_agent)
        self._deadline: float | None = None

    async def __aenter__(self) -> Fetcher:
        spec = self._spec
        self._loop = asyncio.get_running_loop()
        if spec.run_seconds is not None:
            self._deadline = self._loop.time() + spec.run_seconds
        _allow_open_files(1024 + 16 * spec.concurrency)
        threads = min(_THREADS_MAX, spec.concurrency)
        resolver = Resolver(allow_private=spec.allow_private, seconds=spec.connect_seconds, threads=threads)
        self._exchange = Exchange(spec, resolver)
        self._robots = Robots(spec, self._exchange) if spec.respect.robots else None
        self._files = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._inside = Inside()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._robots is not None:
            self._robots.close()
        await self._exchange.close()
        self._files.shutdown(wait=False, cancel_futures=True)
        self._inside.close()

    async def get(self, uri: str, place: Place | None = None) -> Fetched:
        """Fetch an http(s) URL, an object store's URL or a local path, or with `place` what lies there inside a file.
        Never raises for what the network or the data do. Raises RunError when this machine cannot go on (no more files
        can be opened)."""
        began = self._loop.time()
        tally = Tally()
        data: bytes | None = None
        drop: Drop | None = None
        try:
            if place is not None:
                data = await self._loop.run_in_executor(self._files, self._inside.read, place, self._spec.max_bytes)
                tally.size += len(data)
            elif self._deadline is None:
                data = await self._fetch(uri, tally)
            else:
                data = await self._fetch_in_time(uri, tally, self._deadline)
        except FetchError as error:
            drop = error.drop()
        return Fetched(
            data=data,
            drop=drop,
            attempts=tally.requests,
            status=tally.status,
            seconds=self._loop.time() - began,
            size=tally.size,
        )

    async def _fetch_in_time(self, uri: str, tally: Tally, deadline: float) -> bytes:
        if self._loop.time() >= deadline:
            raise self._late()
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return await self._fetch(uri, tally)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._late() from None

    def _late(self) -> FetchError:
        return transient("run_deadline", f"the run's {self._spec.run_seconds:g} s for fetching are over")

    async def _fetch(self, uri: str, tally: Tally) -> bytes:
        uri = uri.strip()
        if not uri:
            raise FetchError("bad_url", "empty")
        scheme = uri.partition(":")[0].lower()
        if scheme in ("http", "https"):
            url = parse_url(uri)
            return await persist(self._spec, lambda fresh: self._attempt(url, tally, fresh))
        check_protocol(uri, any_protocol=self._spec.allow_private)
        return await persist(self._spec, lambda _: self._read(uri, tally))

    async def _attempt(self, url: URL, tally: Tally, fresh: bool) -> bytes:
        """Follow `url` to its file, by hand: each hop is judged as if it were the first."""
        spec = self._spec
        before = tally.seconds
        for _ in range(spec.max_redirects + 1):
            rules = await self._admit(url)
            spent = tally.seconds - before
            left = spec.total_seconds - spent if spent else None
            if left is not None and left <= 0:
                raise transient("total_timeout", f"{spec.total_seconds:g} s went by in redirects")
            answer = await self._exchange.ask(
                url, functools.partial(self._receive, tally), tally, gap=rules.gap, fresh=fresh, seconds=left
            )
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError("too_many_redirects", f"more than {spec.max_redirects}; the last to {url}")

    async def _admit(self, url: URL) -> Rules:
        """Raise FetchError unless `url` may be asked for, by address and by its origin's robots.txt."""
        await self._exchange.admit(url)
        if self._robots is None:
            return Rules()
        rules = await self._robots.rules(url)
        if not rules.allows(url):
            raise opted_out("robots_disallowed", f"robots.txt of {url.origin()} disallows {url.raw_path_qs[:200]}")
        return rules

    async def _receive(self, tally: Tally, response: aiohttp.ClientResponse) -> bytes | URL:
        """The body, or where a redirect points to. An opt-out is obeyed wherever on the way it is met, except on
        errors: many sites mark their error pages `noindex`."""
        status = response.status
        if status in _BODIES or status in REDIRECTS:
            wish = opt_out(response.headers, self._agent, self._spec.respect.headers)
            if wish is not None:
                response.close()
                raise wish
        if status in _BODIES:
            return await read_body(response, self._spec.max_bytes, tally)
        if status in REDIRECTS:
            location = response.headers.get("Location", "")
            if not location.strip():
                raise FetchError("bad_redirect", f"{status} without a Location")
            return join_url(response.url, location)
        raise self._exchange.refusal(response)

    async def _read(self, uri: str, tally: Tally) -> bytes:
        spec = self._spec
        tally.requests += 1
        try:
            async with asyncio.timeout(spec.total_seconds):
                data = await self._loop.run_in_executor(self._files, read_file, uri, spec.max_bytes)
        except TimeoutError as error:
            raise transient("total_timeout", f"not read within {spec.total_seconds:g} s") from error
        tally.size += len(data)
        return data


def _allow_open_files(wanted: int) -> None:
    """Raise this process's limit of open files towards `wanted`, as far as the system lets it."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
