"""Real servers on loopback for the tests of fetching: aiohttp for the decent, raw sockets for the rest."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from mmdata.fetch.client import Fetched, Fetcher
from mmdata.spec import FetchSpec

T = TypeVar("T")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAST: dict[str, Any] = {
    "allow_private": True,
    "per_host_rate": 1e6,
    "backoff_seconds": 0.01,
    "connect_seconds": 2.0,
    "read_seconds": 2.0,
    "total_seconds": 10.0,
}
BODY = bytes(range(256)) * 700
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


class Site:
    """A web server that remembers what it was asked: `log` holds (loop time, path), `most` the largest number of
    requests it had under way at once. Paths without an answer are 404."""

    def __init__(self) -> None:
        self.log: list[tuple[float, str]] = []
        self.answers: dict[str, Answer] = {}
        self.fallback: Answer | None = None
        self.under_way = self.most = 0
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, path: str) -> int:
        return Counter(path for _, path in self.log)[path]

    @property
    def images(self) -> list[tuple[float, str]]:
        return [entry for entry in self.log if entry[1] != "/robots.txt"]

    def fixed(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=body, status=status, headers=named)

        self.answers[path] = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path
        self.log.append((asyncio.get_running_loop().time(), path))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            answer = self.answers.get(path) or (self.fallback if path != "/robots.txt" else None)
            return await answer(request) if answer else web.Response(status=404)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    served = Site()
    server = web.Server(served.handle)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.port = runner.addresses[0][1]
    try:
        yield served
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_site(
    talk: Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server whose `talk(path, reader, writer)` writes its own bytes. Yields its root URL and the paths asked
    for. robots.txt is 404. A connection serves request after request until `talk` closes it."""
    paths: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split()[1]
                if path == b"/robots.txt":
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    continue
                paths.append(path.decode())
                await talk(path, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", paths
    finally:
        server.close()


def closed_port() -> int:
    """A port of 127.0.0.1 that refuses connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def get(uri: str, **spec: Any) -> Fetched:
    async with Fetcher(FetchSpec(**(FAST | spec))) as fetcher:
        return await fetcher.get(uri)


def run(test: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run a coroutine function with a fresh event loop, for a minute at most."""

    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await test(*args)

    return asyncio.run(bounded(), debug=False)


def ended(fetched: Fetched) -> tuple[str, str]:
    assert fetched.drop is not None, "it was fetched"
    assert fetched.data is None
    return fetched.drop.state, fetched.drop.reason


async def answered(prepare: Any, path: str = "/x", **spec: Any) -> tuple[Fetched, Site]:
    async with site() as served:
        prepare(served)
        return await get(served.url(path), **spec), served


async def told(reply: bytes, *, pause: float = 0.0, cut: int = 0, reset: bool = False, **spec: Any) -> Fetched:
    """Fetch from a server that answers with these very bytes (the first `cut`, a pause, the others) and closes."""

    async def talk(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply[:cut])
        if pause:
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(reply[cut:])
        await writer.drain()
        if reset:
            await asyncio.sleep(0.05)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    async with raw_site(talk) as (root, _):
        return await get(f"{root}/x", **({"retries": 0} | spec))
