"""Bodies from real servers: limits, compression, ends and cuts, and under which reason what is wrong is refused."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from aiohttp import web

from mmdata.fetch.client import Fetched, Fetcher
from mmdata.spec import FetchSpec, RespectSpec
from tests.fetch.site import BODY, FAST, HEAD, answered, ended, get, raw_site, run, site, told


def test_too_large_as_declared_is_not_read() -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(100_000_000)})
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(1_000_000))
            sent += 1
        return response

    fetched, _ = run(answered, lambda s: s.answers.update({"/x": answer}))
    assert ended(fetched) == ("failed_permanent", "too_large")
    assert fetched.size == 0
    assert sent < 20


def test_too_large_without_a_declaration_is_cut_off() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(1_000_000))
        return response

    fetched, _ = run(answered, lambda s: s.answers.update({"/x": answer}), "/x")
    assert ended(fetched) == ("failed_permanent", "too_large")
    assert 20_000_000 < fetched.size < 25_000_000


def test_the_limit_itself_is_allowed() -> None:
    fetched, _ = run(answered, lambda s: s.fixed("/x", bytes(1000)))
    assert fetched.data == bytes(1000)

    async def test(limit: int) -> Fetched:
        async with site() as served:
            served.fixed("/x", bytes(1000))
            return await get(served.url("/x"), max_bytes=limit)

    assert run(test, 1000).data == bytes(1000)
    assert ended(run(test, 999))[1] == "too_large"


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:])),
        ("GZIP", gzip.compress(BODY) + bytes(100)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
    ],
)
def test_compressed_bodies_are_decompressed(encoding: str, body: bytes) -> None:
    fetched, _ = run(answered, lambda s: s.fixed("/x", body, Content_Encoding=encoding))
    assert (fetched.data, fetched.size) == (BODY, len(body))


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_that_would_not_fit(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(200_000_000))  # here: a second, which not every process that collects tests should pay
    fetched, _ = run(answered, lambda s: s.fixed("/x", bomb, Content_Encoding=encoding))
    assert ended(fetched) == ("failed_permanent", "decompression_bomb")


@pytest.mark.parametrize(
    ("encoding", "body", "ending"),
    [
        ("br", b"abc", ("failed_permanent", "content_encoding")),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), ("failed_permanent", "content_encoding")),
        ("gzip", b"\xff\xd8\xff\xe0 a JPEG after all", ("failed_permanent", "content_encoding")),
        ("gzip", gzip.compress(BODY)[:-20], ("failed_transient", "short_body")),
        ("gzip", b"", ("failed_permanent", "empty_body")),
    ],
)
def test_bodies_that_cannot_be_decompressed(encoding: str, body: bytes, ending: tuple[str, str]) -> None:
    fetched, _ = run(answered, lambda s: s.fixed("/x", body, Content_Encoding=encoding))
    assert ended(fetched) == ending


def test_empty_body() -> None:
    assert ended(run(answered, lambda s: s.fixed("/x", b""))[0]) == ("failed_permanent", "empty_body")


def test_short_body_is_transient_however_it_is_cut() -> None:
    for cut, pause in ((0, 0.0), (40, 0.05), (60, 0.05)):
        fetched = run(lambda c=cut, p=pause: told(HEAD % 500 + b"only this", cut=c, pause=p))
        assert ended(fetched) == ("failed_transient", "short_body")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    assert ended(run(lambda: told(chunked))) == ("failed_transient", "short_body")


def test_a_body_longer_than_declared_is_what_was_declared_however_it_arrives() -> None:
    reply = HEAD % 5 + b"helloEXTRA"
    for cut, pause in ((0, 0.0), (10, 0.05), (len(reply) - 10, 0.05), (len(reply) - 5, 0.05), (len(reply) - 2, 0.05)):
        assert run(lambda c=cut, p=pause: told(reply, cut=c, pause=p)).data == b"hello"


def test_a_body_up_to_the_end_of_the_connection() -> None:
    assert run(lambda: told(b"HTTP/1.0 200 OK\r\n\r\nhello")).data == b"hello"


def test_reset_before_and_in_the_body() -> None:
    assert ended(run(lambda: told(b"", reset=True))) == ("failed_transient", "reset")
    assert ended(run(lambda: told(b"HTTP/1.1 2", reset=True))) == ("failed_transient", "reset")
    assert ended(run(lambda: told(HEAD % 500 + b"only this", reset=True))) == ("failed_transient", "reset")
    assert ended(run(lambda: told(b""))) == ("failed_transient", "reset")


WHOLE = {
    "plain": (HEAD % 5 + b"hello", "hello"),
    "excess": (HEAD % 5 + b"helloEXTRA", "hello"),
    "excess after close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhelloEXTRA", "hello"),
    "short": (HEAD % 50 + b"hello", "short_body"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        "hello",
    ),
    "chunks cut off": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\n", "short_body"),
    "broken chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2?\x08\r\nlo\r\n0\r\n\r\n",
        "bad_response",
    ),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD % 5 + b"hello", "hello"),
    "gzip cut off": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + gzip.compress(b"hello")[:20],
        "short_body",
    ),
    "head cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "reset"),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "bad_response"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_verdict_does_not_depend_on_how_a_response_is_cut(name: str) -> None:
    """The network may split a response anywhere. Each reply is sent once for each place to split it."""
    reply, expected = WHOLE[name]

    async def talk(path: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut = int(path[1:])
        writer.write(reply[:cut])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(reply[cut:])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    async def test() -> list[Fetched]:
        spec = FAST | {"retries": 0, "respect": RespectSpec(robots=False), "per_host_concurrency": 20}
        async with raw_site(talk) as (root, _), Fetcher(FetchSpec(**spec)) as fetcher:
            return await asyncio.gather(*(fetcher.get(f"{root}/{cut}") for cut in range(len(reply) + 1)))

    assert {(r.data or b"").decode() or (r.drop and r.drop.reason) for r in run(test)} == {expected}


def test_what_another_answer_had_too_much_is_not_the_next_one() -> None:
    """It comes late, on a connection that serves the next request by then: that is asked again on one of its own."""
    connections: list[bytes] = []

    async def talk(path: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(path)
        writer.write(HEAD % 5 + b"hello")
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"EXTRA" + HEAD % 5 + b"other")
        await writer.drain()
        writer.close()

    async def test() -> list[Fetched]:
        spec = FAST | {"retries": 0, "respect": RespectSpec(robots=False), "per_host_concurrency": 1}
        async with raw_site(talk) as (root, _), Fetcher(FetchSpec(**spec)) as fetcher:
            return [await fetcher.get(f"{root}/{number}") for number in range(2)]

    assert [fetched.data for fetched in run(test)] == [b"hello"] * 2
    assert connections == [b"/0", b"/1"]


def test_what_is_not_http_is_permanent() -> None:
    assert ended(run(lambda: told(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))) == ("failed_permanent", "bad_response")
