"""Opt-out headers: their grammar, and that bodies behind them are never read."""

from __future__ import annotations

import asyncio

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from mmdata.fetch.client import Fetched
from mmdata.fetch.consent import opt_out
from mmdata.spec import RespectSpec
from tests.fetch.site import get, raw_site, run

HONOURED = RespectSpec().headers


def asked(*headers: tuple[str, str]) -> str | None:
    error = opt_out(CIMultiDictProxy(CIMultiDict(headers)), "mmdata", HONOURED)
    return error and error.reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["noai"], "x_robots_noai"),
        (["NoImageAI"], "x_robots_noimageai"),
        (["nofollow, noarchive,noimageindex"], "x_robots_noimageindex"),
        (["all", "noml"], "x_robots_noml"),
        (["none"], "x_robots_noindex"),
        (["noindex nofollow"], "x_robots_noindex"),
        (["noindex; nofollow"], "x_robots_noindex"),
        (["mmdata: noai"], "x_robots_noai"),
        (["MMData/2.0: noai"], "x_robots_noai"),
        (["*: noai"], "x_robots_noai"),
        (["googlebot: noindex", "noai"], "x_robots_noai"),
        (["googlebot: nofollow, mmdata: noindex"], "x_robots_noindex"),
        (["max-snippet: 20, noai"], "x_robots_noai"),
        (["unavailable_after: Wed, 25 Jun 2031 15:00:00 GMT, noai"], "x_robots_noai"),
        (["noindex, noai"], "x_robots_noai"),
        (["googlebot: noindex, noai"], None),
        (["mmdata-other: noai"], None),
        (["all"], None),
        (["nofollow, notranslate"], None),
        (["max-image-preview: none"], None),
        (["noaim, nonoindex"], None),
        ([""], None),
    ],
)
def test_x_robots_tag(values: list[str], reason: str | None) -> None:
    assert asked(*(("X-Robots-Tag", value) for value in values)) == reason


def test_tdm_reservation() -> None:
    assert asked(("TDM-Reservation", " 1 ")) == "tdm_reservation"
    assert asked(("tdm-reservation", "0")) is None
    assert asked(("tdm-reservation", "0"), ("tdm-reservation", "1")) == "tdm_reservation"


def test_only_what_the_spec_honours_counts() -> None:
    headers = CIMultiDictProxy(CIMultiDict([("X-Robots-Tag", "noindex"), ("TDM-Reservation", "1")]))
    assert opt_out(headers, "mmdata", ("noai",)) is None
    assert opt_out(headers, "mmdata", ()) is None


@pytest.mark.parametrize(
    "header", [b"X-Robots-Tag: noai", b"TDM-Reservation: 1", b"X-Robots-Tag: a: b\r\nx-robots-tag: none"]
)
@pytest.mark.parametrize("status", [b"200 OK", b"302 Found\r\nLocation: /other"])
def test_bodies_behind_an_opt_out_are_not_read(header: bytes, status: bytes) -> None:
    sent = 0

    async def talk(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 %s\r\n%s\r\nContent-Length: 15000000\r\n\r\n" % (status, header))
        await writer.drain()
        await asyncio.sleep(0.1)
        for _ in range(150):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 1

    async def test() -> tuple[Fetched, list[str]]:
        async with raw_site(talk) as (root, paths):
            return await get(f"{root}/x"), paths

    fetched, paths = run(test)
    assert fetched.drop is not None
    assert fetched.drop.state == "opted_out"
    assert fetched.drop.reason in ("x_robots_noai", "x_robots_noindex", "tdm_reservation")
    assert (fetched.attempts, fetched.size, paths) == (1, 0, ["/x"])
    assert sent < 150, "the connection was closed on it"


def test_an_error_page_marked_noindex_is_an_error() -> None:
    async def talk(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nX-Robots-Tag: noindex\r\nContent-Length: 0\r\n\r\n")

    async def test() -> Fetched:
        async with raw_site(talk) as (root, _):
            return await get(f"{root}/x")

    drop = run(test).drop
    assert drop is not None
    assert (drop.state, drop.reason) == ("failed_permanent", "http_404")
