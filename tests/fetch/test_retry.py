"""Retry-After, back-off and the loop of attempts; URLs as they go on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mmdata.fetch.failure import FetchError, transient
from mmdata.fetch.retry import backoff, persist, retry_after
from mmdata.fetch.url import join_url, parse_url
from mmdata.spec import FetchSpec
from tests.fetch.site import run

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@given(st.integers(-10_000, 10**7), st.integers(-12, 12))
def test_http_dates_of_any_zone(seconds: int, zone: int) -> None:
    date = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=zone)))
    assert retry_after(format_datetime(date), NOW) == max(0, seconds)


@given(st.integers(0, 10**15))
def test_seconds(seconds: int) -> None:
    assert retry_after(f" {seconds} ") == seconds


@given(st.text(max_size=40))
def test_anything_else_is_absent_or_a_wait(text: str) -> None:
    value = retry_after(text, NOW)
    assert value is None or value >= 0


@given(st.floats(0, 10), st.floats(0.01, 100), st.integers(1, 30))
def test_back_off_doubles_with_jitter_up_to_its_cap(base: float, most: float, tries: int) -> None:
    wait = backoff(FetchSpec(backoff_seconds=base, backoff_max_seconds=most), tries)
    whole = base * 2 ** (tries - 1)
    assert min(whole / 2, most) <= wait <= min(whole, most)


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_a_stale_connection_costs_no_record(retries: int) -> None:
    """A connection that the server had already closed is replaced, also where no retries are allowed."""
    asked: list[bool] = []

    async def attempt(fresh: bool) -> str:
        asked.append(fresh)
        if not fresh:
            raise transient("reset", stale=True)
        return "ok"

    assert run(persist, FetchSpec(retries=retries), attempt) == "ok"
    assert asked == [False, True]


def test_permanent_and_final_errors_are_not_retried() -> None:
    for error in (FetchError("http_404"), transient("connect_timeout", final=True)):
        asked = 0

        async def attempt(_: bool, error: FetchError = error) -> None:
            nonlocal asked
            asked += 1
            raise error

        with pytest.raises(FetchError):
            run(persist, FetchSpec(), attempt)
        assert asked == 1


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("http://example.org", "http://example.org/"),
        ("HTTP://Example.ORG:80/A", "http://example.org/A"),
        ("http://example.org?q=1", "http://example.org/?q=1"),
        ("http://example.org/a%2Fb%20c?x=%7E+y&z=%", "http://example.org/a%2Fb%20c?x=%7E+y&z=%"),
        ("http://example.org/a b", "http://example.org/a%20b"),
        ("http://example.org/ü|{}", "http://example.org/%C3%BC%7C%7B%7D"),
        ("http://example.org/a/./b/../c", "http://example.org/a/c"),
        ("http://example.org/a/%2E%2e/c/..", "http://example.org/"),
        ("http://example.org/../../a", "http://example.org/a"),
        ("http://example.org/a#b", "http://example.org/a"),
        ("http://example.org/a\n b", "http://example.org/a%20b"),
        ("http://müller.de/", "http://xn--mller-kva.de/"),
        ("https://user:pw@example.org/", "https://user:pw@example.org/"),
        ("http://example.org//a//b", "http://example.org//a//b"),
        ("http://[2001:db8::1]:8080/x", "http://[2001:db8::1]:8080/x"),
    ],
)
def test_urls_change_as_little_as_possible(text: str, wire: str) -> None:
    assert str(parse_url(text)) == wire
    assert str(parse_url(wire)) == wire


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/y", "http://a.org/y"),
        ("y?z", "http://a.org/d/y?z"),
        ("//b.org/y", "http://b.org/y"),
        ("https://b.org", "https://b.org/"),
        ("?q", "http://a.org/d/x?q"),
        ("\udce9t\udce9", "http://a.org/d/%E9t%E9"),
        (" /sp ace ", "http://a.org/sp%20ace"),
    ],
)
def test_redirect_targets(location: str, target: str) -> None:
    assert str(join_url(URL("http://a.org/d/x"), location)) == target


@given(st.text(max_size=50))
def test_no_text_breaks_the_parser(text: str) -> None:
    for candidate in (text, f"http://{text}", f"http://example.org/{text}"):
        try:
            url = parse_url(candidate)
        except FetchError:
            continue
        assert url.scheme in ("http", "https")
        assert str(url).isascii()
        assert not set(str(url)) & set(" \r\n\t")
        assert "/../" not in url.raw_path
