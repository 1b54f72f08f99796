"""Fetching from real servers: what arrives, what is refused, and under which reason."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from aiohttp import web

from mmdata.errors import RunError
from mmdata.fetch import client
from mmdata.fetch.client import Fetched, Fetcher
from mmdata.spec import FetchSpec, RespectSpec
from tests.fetch.site import BODY, FAST, HEAD, Site, answered, closed_port, ended, get, raw_site, run, site


def test_a_body_arrives_as_it_was_sent() -> None:
    fetched, served = run(answered, lambda s: s.fixed("/x", BODY, Content_Type="text/html"))
    assert (fetched.data, fetched.drop, fetched.attempts, fetched.status) == (BODY, None, 1, 200)
    assert fetched.size == len(BODY)
    assert [path for _, path in served.log] == ["/robots.txt", "/x"]


def test_the_user_agent_is_sent_as_it_is_and_no_compression_is_asked_for() -> None:
    seen: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.Response(body=b"x")

    run(answered, lambda s: s.answers.update({"/x": answer}), "/x")
    assert seen["User-Agent"] == FetchSpec().user_agent
    assert seen["Accept-Encoding"] == "identity"
    assert "Cookie" not in seen


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 501, 505, 300, 204, 206])
def test_other_statuses_are_permanent(status: int) -> None:
    fetched, served = run(answered, lambda s: s.fixed("/x", b"", status))
    assert ended(fetched) == ("failed_permanent", f"http_{status}")
    assert (fetched.attempts, served.asked("/x"), fetched.status) == (1, 1, status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
def test_transient_statuses_are_retried(status: int) -> None:
    fetched, served = run(answered, lambda s: s.fixed("/x", b"", status), "/x")
    assert ended(fetched) == ("failed_transient", f"http_{status}")
    assert (fetched.attempts, served.asked("/x")) == (4, 4)


def test_500_then_200() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=BODY, status=500 if served.asked("/x") < 3 else 200)

    served = Site()

    async def test() -> tuple[Fetched, Site]:
        nonlocal served
        async with site() as served:
            served.answers["/x"] = answer
            return await get(served.url("/x")), served

    fetched, _ = run(test)
    assert (fetched.data, fetched.attempts) == (BODY, 3)


def test_every_attempt_is_one_request_even_over_kept_alive_connections() -> None:
    """aiohttp alone would ask twice after a reset; and a stale connection must not fail a record."""

    async def talk(path: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path == b"/good":
            writer.write(HEAD % 2 + b"ok")
        else:
            writer.close()

    async def test(retries: int) -> tuple[list[str], Fetched]:
        spec = FAST | {"retries": retries, "respect": RespectSpec(robots=False)}
        async with raw_site(talk) as (root, paths), Fetcher(FetchSpec(**spec)) as fetcher:
            assert (await fetcher.get(f"{root}/good")).data == b"ok"
            bad = await fetcher.get(f"{root}/bad")
            return paths, bad

    paths, bad = run(test, 2)
    assert paths == ["/good", "/bad", "/bad", "/bad"]
    assert (ended(bad), bad.attempts) == (("failed_transient", "reset"), 3)


def test_a_server_that_forgets_its_connections_fails_nobody() -> None:
    """It says keep-alive, and closes when the next request comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD % 2 + b"ok")
        await reader.read(10)
        writer.close()

    async def test() -> list[Fetched]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        spec = FetchSpec(**FAST | {"retries": 0, "respect": RespectSpec(robots=False)})
        async with server, Fetcher(spec) as fetcher:
            return [await fetcher.get(f"http://127.0.0.1:{port}/{i}") for i in range(5)]

    results = run(test)
    assert [r.data for r in results] == [b"ok"] * 5
    assert [r.attempts for r in results] == [1, 2, 1, 2, 1] or all(r.attempts <= 2 for r in results)


def test_slow_loris_is_a_read_timeout_and_a_drip_a_total_timeout() -> None:
    async def silent(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % 500 + b"only this")
        await asyncio.sleep(5)

    async def drip(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % 500)
        for _ in range(500):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def test(talk: Any, **spec: Any) -> Fetched:
        async with raw_site(talk) as (root, _):
            return await get(f"{root}/x", **spec)

    silence = run(lambda: test(silent, read_seconds=0.2, retries=1))
    assert (ended(silence), silence.attempts) == (("failed_transient", "read_timeout"), 2)
    assert 0.4 <= silence.seconds < 5, "the server is silent for that long, twice"
    dripping = run(lambda: test(drip, read_seconds=0.5, total_seconds=0.6, retries=0))
    assert ended(dripping) == ("failed_transient", "total_timeout")
    assert dripping.seconds < 20, "the server drips for 25 s"


def test_nobody_listens() -> None:
    fetched = run(lambda: get(f"http://127.0.0.1:{closed_port()}/x", retries=1, respect=RespectSpec(robots=False)))
    assert (ended(fetched), fetched.attempts) == (("failed_transient", "connect_error"), 2)
    fetched = run(lambda: get(f"http://127.0.0.1:{closed_port()}/x", retries=0))
    assert (ended(fetched), fetched.attempts) == (("failed_transient", "connect_error"), 0)


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listening socket whose queue is full: it swallows connections without a word."""
    with ExitStack() as open_sockets:
        hole = open_sockets.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port: int = hole.getsockname()[1]
        for _ in range(4):
            plug = open_sockets.enter_context(socket.socket())
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", port))
        yield port


def test_a_black_hole_is_given_up_on_by_the_host() -> None:
    """300 records of it must not take 300 timeouts."""

    async def test() -> list[Fetched]:
        spec = FAST | {"connect_seconds": 0.3, "retries": 1, "respect": RespectSpec(robots=False)}
        with black_hole() as port:
            async with Fetcher(FetchSpec(**spec)) as fetcher:
                return await asyncio.gather(*(fetcher.get(f"http://127.0.0.1:{port}/{i}") for i in range(300)))

    results = run(test)
    assert {ended(r) for r in results} == {("failed_transient", "connect_timeout")}
    assert max(r.seconds for r in results) < 15, "two timeouts each, 8 at once, would be 22 s"
    assert sum(r.attempts for r in results) < 60
    assert "not asked" in results[-1].drop.detail  # type: ignore[union-attr]


def test_black_holes_delay_nobody_else() -> None:
    """Three in a hundred records lead nowhere, each to a place of its own: only they pay for it."""

    async def test() -> list[Fetched]:
        async with site() as served:
            served.fallback = lambda _: asyncio.sleep(0.01, web.Response(body=b"x"))
            with ExitStack() as holes:
                ports = [holes.enter_context(black_hole()) for _ in range(6)]
                uris = [served.url(f"/{i}") for i in range(194)]
                for number, port in enumerate(ports):
                    uris.insert(33 * number, f"http://127.0.0.1:{port}/x")
                async with Fetcher(FetchSpec(**FAST | {"connect_seconds": 0.5, "concurrency": 16})) as fetcher:
                    return await asyncio.gather(*(fetcher.get(uri) for uri in uris))

    results = run(test)
    lost = [ended(r) for r in results if r.drop]
    assert lost == [("failed_transient", "connect_timeout")] * 6
    assert max(r.seconds for r in results if r.data) < min(r.seconds for r in results if r.drop)


def test_the_deadline_ends_a_run() -> None:
    async def hang(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % 500)
        await asyncio.sleep(30)

    async def test() -> tuple[list[Fetched], list[str], Fetched]:
        async with raw_site(hang) as (root, paths):
            async with Fetcher(FetchSpec(**FAST | {"run_seconds": 0.5, "per_host_concurrency": 4})) as fetcher:
                results = await asyncio.gather(*(fetcher.get(f"{root}/{i}") for i in range(50)))
                late = await fetcher.get(f"{root}/late")
            return results, list(paths), late

    results, paths, late = run(test)
    assert {ended(r) for r in [*results, late]} == {("failed_transient", "run_deadline")}
    assert max(r.seconds for r in results) < 20, "the server hangs for 30 s"
    assert len(paths) == 4
    assert late.attempts == 0


def test_tls_that_cannot_be_trusted(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def test() -> list[Fetched]:
        async with site() as plain:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
            async with server:
                signed = server.sockets[0].getsockname()[1]
                return [
                    await get(f"https://localhost:{signed}/x"),
                    await get(f"https://localhost:{signed}/x", respect=RespectSpec(robots=False)),
                    await get(f"https://localhost:{plain.port}/x"),
                ]

    assert {ended(fetched) for fetched in run(test)} == {("failed_permanent", "tls_error")}


# Redirects


def redirects(served: Site, *hops: tuple[str, str], status: int = 302) -> None:
    for path, location in hops:
        served.fixed(path, b"gone there", status, Location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    def prepare(served: Site) -> None:
        redirects(served, ("/x", "/a/y?q=1"), ("/a/y?q=1", "../z"), status=status)
        served.fixed("/z", BODY)

    fetched, served = run(answered, prepare)
    assert (fetched.data, fetched.attempts, fetched.status) == (BODY, 3, 200)
    assert served.asked("/robots.txt") == 1


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("", "bad_redirect"),
        ("http://[broken/", "bad_redirect"),
        ("https:///nowhere", "bad_redirect"),
        ("ftp://example.org/x", "bad_scheme"),
        ("file:///etc/passwd", "bad_scheme"),
        ("/x", "too_many_redirects"),
    ],
)
def test_redirects_that_lead_nowhere(location: str, reason: str) -> None:
    fetched, _ = run(answered, lambda s: redirects(s, ("/x", location)))
    assert ended(fetched) == ("failed_permanent", reason)


def test_the_number_of_redirects_is_bounded() -> None:
    def prepare(served: Site) -> None:
        redirects(served, *((f"/{i}", f"/{i + 1}") for i in range(10)))
        served.fixed("/5", BODY)

    async def test(limit: int) -> Fetched:
        async with site() as served:
            prepare(served)
            return await get(served.url("/0"), max_redirects=limit)

    assert run(test, 5).data == BODY
    assert (ended(run(test, 4)), run(test, 4).attempts) == (("failed_permanent", "too_many_redirects"), 5)


def test_each_origin_on_the_way_has_its_own_robots() -> None:
    async def test() -> tuple[Fetched, Site]:
        async with site() as first, site() as second:
            redirects(first, ("/x", second.url("/secret/y")))
            second.fixed("/secret/y", BODY)
            second.fixed("/robots.txt", b"User-agent: *\nDisallow: /secret/")
            return await get(first.url("/x")), second

    fetched, second = run(test)
    assert ended(fetched) == ("opted_out", "robots_disallowed")
    assert [path for _, path in second.log] == ["/robots.txt"]


# Addresses


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "a.localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"]
)
def test_private_addresses_are_refused_without_a_request(host: str) -> None:
    async def test() -> tuple[Fetched, Site]:
        async with site() as served:
            served.fixed("/x", BODY)
            return await get(served.url("/x", host), allow_private=False), served

    fetched, served = run(test)
    assert ended(fetched) == ("failed_permanent", "private_address")
    assert (fetched.attempts, served.log) == (0, [])


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "bad_url"),
        ("http://", "bad_url"),
        ("http:///x", "bad_url"),
        ("https://exa mple.org/", "bad_url"),
        ("http://example.org:99999/", "bad_url"),
        ("http://example.org:0/", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://" + "a" * 70 + ".org/", "bad_url"),
        ("http://example.org/" + "a" * 9000, "bad_url"),
        ("http://nothing-here.invalid/x.jpg", "dns_not_found"),
        ("ftp://example.org/x", "bad_scheme"),
        ("simplecache::http://127.0.0.1/x", "bad_scheme"),
        ("data:image/png;base64,AAAA", "bad_scheme"),
        ("gopher://example.org/", "bad_scheme"),
    ],
)
def test_what_cannot_be_asked_for(uri: str, reason: str) -> None:
    fetched = run(lambda: get(uri, allow_private=False))
    assert (ended(fetched), fetched.attempts) == (("failed_permanent", reason), 0)


def test_no_more_files_to_open_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(client, "_allow_open_files", lambda _: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def test() -> None:
        async with site() as served, Fetcher(FetchSpec(**FAST)) as fetcher:
            resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard))
            hoard = []
            try:
                while True:
                    hoard.append(socket.socket())
            except OSError:
                pass
            try:
                await fetcher.get(served.url("/x"))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for held in hoard:
                    held.close()

    with pytest.raises(RunError, match="too many open files"):
        run(test)


# Files


def test_local_and_stored_files(tmp_path: Path) -> None:
    path = tmp_path / "a b.jpg"
    path.write_bytes(BODY)
    (tmp_path / "empty").touch()
    with fsspec.open("memory://fetch-test/x.jpg", "wb") as file:
        file.write(BODY)
    for uri in (str(path), f"file://{path}", "memory://fetch-test/x.jpg"):
        fetched = run(get, uri)
        assert (fetched.data, fetched.drop, fetched.attempts, fetched.size) == (BODY, None, 1, len(BODY))
        assert ended(run(lambda u=uri: get(u, max_bytes=1000))) == ("failed_permanent", "too_large")
    for uri in (
        f"{path}.not",
        "memory://fetch-test/y.jpg",
        f"file://{path}.not",
        str(tmp_path),
        "/dev/zero",
        f"{path}{'x' * 300}",
    ):
        assert ended(run(get, uri)) == ("failed_permanent", "not_found")
    assert ended(run(get, str(tmp_path / "empty"))) == ("failed_permanent", "empty_body")
    looped = tmp_path / "loop"
    looped.symlink_to(looped)
    assert ended(run(get, str(looped))) == ("failed_transient", "read_error")
