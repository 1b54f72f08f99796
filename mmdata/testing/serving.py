"""The fault server's own process: a small asyncio HTTP/1.1 server that answers each request as a plan says.

Only the standard library, and one write per plain answer: benchmarks run on the same cores as this.
"""

from __future__ import annotations

import asyncio
import functools
import gzip as gzip_module
import json
import os
import re
import signal
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

from mmdata.testing.plan import Behaviour, OriginPlan, Plan

CHUNK = 1 << 16
HEAD_LIMIT = 1 << 16
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
GRACE_SECONDS = 0.05  # lets what was sent before a reset reach the client: a reset overtakes unread data
TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".mp4": "video/mp4",
}


class Server:
    """What all connections share: the root folder, the plan, the counts per path, and the log."""

    def __init__(self, root: Path, plan: Plan, log: int) -> None:
        self.root = root.resolve()
        self.plan = plan
        self.log = log
        self.asked: Counter[tuple[str, str]] = Counter()
        self.active: Counter[str] = Counter()
        self.urls: dict[str, str] = {}

    def choose(self, origin: str, path: str) -> Behaviour:
        """The behaviour for this request of `path`; counts it."""
        paths = self.plan.origins[origin].paths
        steps = paths.get(path) or paths.get(path.partition("?")[0])
        if steps is None:
            return Behaviour()
        asked = self.asked[origin, path]
        self.asked[origin, path] += 1
        for step in steps[:-1]:
            asked -= 1 if step.times is None else step.times
            if asked < 0:
                return step
        return steps[-1]

    def find(self, name: str) -> bytes | None:
        """The bytes of a file below the root, or None; a path that leads out of the root is not found."""
        path = self.root / name.lstrip("/")
        try:
            if not path.resolve().is_relative_to(self.root):
                return None
            return path.read_bytes()
        except (OSError, ValueError):
            return None

    def find_range(self, name: str, asked: str) -> tuple[bytes, int, int] | None:
        """The bytes of a file that a Range header asks for, their offset, and the length of the file; None where there
        is no such file or the header is not one range with a start (RFC 9110, 14.2: then it is ignored)."""
        match = RANGE.fullmatch(asked)
        path = self.root / name.lstrip("/")
        try:
            if match is None or not path.resolve().is_relative_to(self.root):
                return None
            start = int(match[1])
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                end = min(int(match[2]) + 1, size) if match[2] else size
                return os.pread(file.fileno(), max(0, end - start), start), start, size
        except (OSError, ValueError):
            return None

    def record(self, origin: str, method: str, path: str, user_agent: str, status: int, asked: str) -> None:
        """One line of the log, in the file before the client sees an answer."""
        line = {
            "time": time.time(),
            "origin": origin,
            "method": method,
            "path": path,
            "user_agent": user_agent,
            "status": status,
            "range": asked,
            "active": self.active[origin],
        }
        os.write(self.log, json.dumps(line).encode() + b"\n")


class Connection(asyncio.Protocol):
    """One client. Requests are answered one at a time, in order; a plain answer is one write."""

    transport: asyncio.Transport

    def __init__(self, server: Server, origin: str) -> None:
        self.server = server
        self.origin = origin
        self.buffer = b""
        self.task: asyncio.Task[None] | None = None
        self.in_flight = False
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._done()
        self.writable.set()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> bool:
        return True  # a client may close its half and still read the answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > HEAD_LIMIT:
            self.transport.abort()
        elif self.task is None:
            self._next()

    def _done(self) -> None:
        if self.in_flight:
            self.in_flight = False
            self.server.active[self.origin] -= 1

    def _next(self) -> None:
        while self.task is None and not self.transport.is_closing():
            head, separator, rest = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            self.buffer = rest
            self._request(head.decode("latin-1"))

    def _request(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        parts = first.split(" ")
        method, target, version = parts if len(parts) == 3 else ("?", "/", "HTTP/1.0")
        self.server.active[self.origin] += 1
        self.in_flight = True
        if method in ("GET", "HEAD"):
            behaviour = self.server.choose(self.origin, target)
        else:
            behaviour = Behaviour(status=400 if method == "?" else 405, end="close")
        asked = headers.get("range", "")
        answer = Answer.of(self.server, behaviour, unquote(target.partition("?")[0]), method == "HEAD", asked)
        status = 0 if behaviour.instead else answer.status
        self.server.record(self.origin, method, target, headers.get("user-agent", ""), status, asked)
        keep = answer.keep and version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if answer.plain is not None:
            self.transport.write(answer.plain)
            self._done()
            if not keep:
                self.transport.close()
        else:
            self.task = asyncio.get_running_loop().create_task(self._slowly(behaviour, answer, keep))

    async def _slowly(self, behaviour: Behaviour, answer: Answer, keep: bool) -> None:
        """An answer that takes time, or is none."""
        if behaviour.delay:
            await asyncio.sleep(behaviour.delay)
        if behaviour.instead is None:
            self.transport.write(answer.head)
            for chunk in answer.chunks:
                await self.writable.wait()
                if self.transport.is_closing():
                    return
                self.transport.write(chunk)
                await asyncio.sleep(behaviour.drip_seconds if behaviour.drip_bytes else 0)
        end = behaviour.instead or behaviour.end
        if end == "hang":
            return  # the task stays set: nothing more is answered on this connection
        if end == "reset":
            await asyncio.sleep(GRACE_SECONDS)
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif end == "close" or not keep:
            self.transport.close()
        self._done()
        self.task = None
        self._next()


@dataclass(slots=True, kw_only=True)
class Answer:
    """The bytes of one answer: `plain` when they can be written at once, else `head` and `chunks`.
    `keep` says whether the connection can serve another request."""

    status: int
    head: bytes
    chunks: Iterator[bytes]
    plain: bytes | None
    keep: bool

    @classmethod
    def of(cls, server: Server, behaviour: Behaviour, path: str, head_only: bool, asked: str) -> Answer:
        status, name = behaviour.status or 200, behaviour.file or path
        data: bytes | int = b""
        headers: dict[str, str] = {}
        if behaviour.instead is None:
            if behaviour.redirect is not None:
                status = behaviour.status or 302
            elif behaviour.size is not None:
                data = _zero_gzip(behaviour.size) if behaviour.gzip else behaviour.size
            elif behaviour.body is not None:
                data = _zip(behaviour.body.encode()) if behaviour.gzip else behaviour.body.encode()
            elif asked and status == 200 and behaviour.ranges and (part := server.find_range(name, asked)):
                data, start, length = part
                status = 206 if data else 416
                extent = f"{start}-{start + len(data) - 1}" if data else "*"
                headers["Content-Range"] = f"bytes {extent}/{length}"
            elif status == 200 or behaviour.file is not None:
                found = server.find(name)
                if found is None:
                    status, found = 404, b"not found\n"
                data = _zip(found) if behaviour.gzip else found
            else:
                data = (_phrase(status) + "\n").encode()
        size = data if isinstance(data, int) else len(data)
        headers |= {"Content-Type": behaviour.content_type or _type(name, status), "Server": "mmdata-testing"}
        chunked = behaviour.declare == "chunked"
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif behaviour.declare != "none":
            headers["Content-Length"] = str(size if behaviour.declare is None else behaviour.declare)
        if behaviour.gzip:
            headers["Content-Encoding"] = "gzip"
        if behaviour.redirect is not None:
            location = behaviour.redirect
            for origin, url in server.urls.items():
                location = location.replace("{" + origin + "}", url)
            headers["Location"] = location
        if behaviour.retry_after_date is not None:
            headers["Retry-After"] = formatdate(time.time() + behaviour.retry_after_date, usegmt=True)
        sent = size if behaviour.send is None else min(behaviour.send, size)
        # A body that disagrees with its head leaves the connection in no state to be used again.
        honest = sent == size and behaviour.declare in (None, size, "chunked")
        keep = honest and behaviour.end == "keep"
        if not keep:
            headers["Connection"] = "close"
        headers.update(behaviour.headers)
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{key}: {value}" for key, value in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        plain = None
        simple = behaviour.end in ("keep", "close") and not (behaviour.delay or behaviour.drip_bytes or chunked)
        if head_only and simple and behaviour.instead is None:
            plain = head
        elif simple and behaviour.instead is None and isinstance(data, bytes):
            plain = head + data[:sent]
        chunks = iter(()) if head_only else _chunks(data, sent, behaviour.drip_bytes or CHUNK, chunked, sent == size)
        return cls(status=status, head=head, chunks=chunks, plain=plain, keep=keep)


def _chunks(data: bytes | int, sent: int, step: int, chunked: bool, complete: bool) -> Iterator[bytes]:
    zeros = bytes(min(step, sent))
    for start in range(0, sent, step):
        stop = min(start + step, sent)
        piece = zeros[: stop - start] if isinstance(data, int) else data[start:stop]
        yield b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    if chunked and complete:
        yield b"0\r\n\r\n"


def _type(name: str, status: int) -> str:
    return (
        TYPES.get(os.path.splitext(name)[1].lower(), "application/octet-stream")
        if status in (200, 206)
        else "text/plain"
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _zip(data: bytes) -> bytes:
    return gzip_module.compress(data, 6, mtime=0)


@functools.lru_cache(maxsize=8)
def _zero_gzip(size: int) -> bytes:
    """`size` zero bytes as gzip, made without holding them: a bomb of 1000 to 1."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(CHUNK)
    pieces = [packer.compress(zeros[: min(CHUNK, size - start)]) for start in range(0, size, CHUNK)]
    return b"".join([*pieces, packer.flush()])


def _listen(origin: OriginPlan) -> tuple[socket.socket, list[socket.socket]]:
    """A bound socket; for a blackhole also the connections that fill its queue, so that further ones get no answer."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((origin.host, origin.port))
    except OSError as error:
        raise SystemExit(f"cannot listen on {origin.host}:{origin.port}: {error.strerror}") from error
    if not origin.blackhole:
        return listener, []
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


async def serve(root: Path, plan: Plan, log: int, ready: Callable[[dict[str, str]], None], eof: bool) -> None:
    """Serve until SIGTERM or SIGINT, or, with `eof`, until standard input ends (its parent died).

    `log` is a file descriptor to append to; `ready` is given the URL of each origin once all listen.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(root, plan, log)
    sockets = {name: _listen(origin) for name, origin in plan.origins.items()}
    starting: list[Awaitable[asyncio.Server]] = []
    for name, (listener, _) in sockets.items():
        host, port = listener.getsockname()
        server.urls[name] = f"http://{host}:{port}"
        if not plan.origins[name].blackhole:
            factory = functools.partial(Connection, server, name)
            starting.append(loop.create_server(factory, sock=listener, backlog=1024))
    await asyncio.gather(*starting)
    ready(server.urls)
    if eof:

        def read() -> None:
            if not os.read(sys.stdin.fileno(), CHUNK):
                stop.set()

        loop.add_reader(sys.stdin.fileno(), read)
    await stop.wait()
