"""robots.txt: whose rules apply, and what is never asked for because of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from mmdata.fetch.client import Fetched, Fetcher
from mmdata.fetch.robots import PARSED_BYTES, parse_rules
from mmdata.spec import FetchSpec, RespectSpec
from tests.fetch.site import FAST, Site, get, run, site

ALL = b"User-agent: *\nDisallow: /\n"


async def under(rules: bytes, path: str = "/a/x.jpg", status: int = 200, **spec: Any) -> tuple[Fetched, Site]:
    async with site() as served:
        served.fixed("/robots.txt", rules, status)
        served.fixed(path, b"body")
        return await get(served.url(path), **spec), served


def reason(fetched: Fetched) -> str | None:
    return fetched.drop and fetched.drop.reason


def test_what_is_disallowed_is_never_asked_for() -> None:
    async def test() -> tuple[list[Fetched], Site]:
        async with site() as served:
            served.fixed("/robots.txt", b"User-agent: *\nDisallow: /a/\nAllow: /a/b")
            served.fallback = served.answers["/robots.txt"]
            paths = [f"/{p}/{i}.jpg" for i in range(20) for p in ("a", "a/b", "c", "c/../a", "c/%2E%2e/a", "%61")]
            async with Fetcher(FetchSpec(**FAST)) as fetcher:
                return list(await asyncio.gather(*(fetcher.get(served.url(p)) for p in paths))), served

    results, served = run(test)
    states = [r.drop.state if r.drop else "ok" for r in results]
    assert states == ["opted_out", "ok", "ok", "opted_out", "opted_out", "opted_out"] * 20
    assert {reason(r) for r in results} == {None, "robots_disallowed"}
    assert not [p for _, p in served.log if p.startswith("/a/") and not p.startswith("/a/b")]
    assert served.asked("/robots.txt") == 1
    assert all(r.attempts == (0 if r.drop else 1) for r in results)


def test_our_own_group_comes_before_everybody_elses() -> None:
    mine = b"User-agent: *\nAllow: /\n\nUser-agent: MMdata\nDisallow: /\n"
    assert reason(run(under, mine)[0]) == "robots_disallowed"
    assert run(under, ALL + b"User-agent: mmdata/2.0\nDisallow:\n")[0].data == b"body"
    assert (
        run(lambda: under(ALL + b"User-agent: photobot\nAllow: /", user_agent="PhotoBot/3 (me@x)"))[0].data == b"body"
    )


@pytest.mark.parametrize("name", ["mm", "mmdata-images", "data", "anmmdata", "mmdata2", "us", "another"])
def test_other_robots_rules_are_not_ours(name: str) -> None:
    assert run(under, f"User-agent: {name}\nDisallow: /".encode())[0].data == b"body"
    assert reason(run(under, ALL + f"\nUser-agent: {name}\nAllow: /".encode())[0]) == "robots_disallowed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_no_robots_txt_allows_all(status: int) -> None:
    assert run(under, ALL, "/x", status)[0].data == b"body"


@pytest.mark.parametrize("status", [429, 500, 501, 503])
def test_an_unreachable_robots_txt_allows_nothing(status: int) -> None:
    fetched, served = run(lambda: under(b"", status=status, retries=2))
    assert fetched.drop is not None
    assert (fetched.drop.state, fetched.drop.reason) == ("failed_transient", "robots_unreachable")
    assert fetched.attempts == 0
    assert served.images == []
    assert served.asked("/robots.txt") == (1 if status == 501 else 3)


def test_robots_may_be_ignored_by_choice() -> None:
    fetched, served = run(lambda: under(ALL, respect=RespectSpec(robots=False)))
    assert fetched.data == b"body"
    assert served.asked("/robots.txt") == 0


def test_robots_txt_is_followed_through_redirects() -> None:
    async def test(hops: int) -> Fetched:
        async with site() as first, site() as second:
            first.fixed("/x", b"body")
            first.fixed("/robots.txt", b"", 301, Location=second.url("/1"))
            for hop in range(1, hops):
                second.fixed(f"/{hop}", b"", 302, Location=f"/{hop + 1}")
            second.fixed(f"/{hops}", ALL)
            return await get(first.url("/x"))

    assert reason(run(test, 5)) == "robots_disallowed"
    assert run(test, 6).data == b"body"


def test_robots_txt_that_leads_to_a_forbidden_place_allows_nothing() -> None:
    async def test(location: str) -> Fetched:
        async with site() as served:
            served.fixed("/x", b"body")
            served.fixed("/robots.txt", b"", 301, Location=location)
            return await get(served.url("/x"))

    for location in ("ftp://example.org/robots.txt", "http://gone.invalid/robots.txt", ""):
        assert reason(run(test, location)) == "robots_unreachable"


def test_rules_beyond_500_kib_are_not_looked_at() -> None:
    padding = b"# " + b"x" * 97 + b"\n"
    head = b"User-agent: *\n" + padding * (PARSED_BYTES // len(padding) - 1)
    cut = head + b"x" * (PARSED_BYTES - len(head) - len(b"\nDisallow: /")) + b"\nDisallow: /nothing-of-this"
    assert run(under, head + padding * 20 + b"Disallow: /\n")[0].data == b"body"
    assert run(under, cut)[0].data == b"body", "a rule cut in two is no rule"
    assert reason(run(under, head[: PARSED_BYTES // 2 // 100 * 100 + 14] + b"Disallow: /\n")[0]) == "robots_disallowed"


def test_a_waiter_that_is_cut_off_takes_no_other_with_it() -> None:
    async def test() -> tuple[Fetched, int]:
        async with site() as served:
            served.fixed("/x", b"body")

            async def late(_: web.Request) -> web.Response:
                await asyncio.sleep(0.3)
                return web.Response(body=b"")

            served.answers["/robots.txt"] = late
            async with Fetcher(FetchSpec(**FAST)) as fetcher:
                first = asyncio.create_task(fetcher.get(served.url("/x")))
                second = asyncio.create_task(fetcher.get(served.url("/x")))
                await asyncio.sleep(0.1)
                first.cancel()
                return await second, served.asked("/robots.txt")

    fetched, asked = run(test)
    assert (fetched.data, asked) == (b"body", 1)


def test_encodings_and_line_ends() -> None:
    for text in ("﻿User-agent: *\nDisallow: /", "user-agent:*\r\ndisallow:/", "USER-AGENT : * # all\rDisallow: / # all"):
        assert not parse_rules(text.encode(), "mmdata").allows(URL("http://a/x")), text
    assert parse_rules(b"<html><body>Not: found</body></html>", "mmdata").allows(URL("http://a/x"))


def test_crawl_delay_is_capped_and_ours() -> None:
    text = b"User-agent: *\nCrawl-delay: 5\n\nUser-agent: other\nCrawl-delay: 7\n"
    assert parse_rules(text, "mmdata").gap == 5
    assert parse_rules(text + b"\nUser-agent: mmdata\nCrawl-delay: 86400", "mmdata").gap == 30
    assert parse_rules(b"User-agent: *\nCrawl-delay: soon", "mmdata").gap == 0


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_no_robots_txt_breaks_the_parser(body: bytes) -> None:
    assert parse_rules(body, "mmdata").allows(URL("http://a/x.jpg")) in (True, False)
    parse_rules(b"User-agent: *\nDisallow: " + body, "mmdata").allows(URL("http://a/x.jpg"))
