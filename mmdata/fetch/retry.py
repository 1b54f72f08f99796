"""When to ask again: `Retry-After`, jittered exponential back-off, and the loop that applies both."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from mmdata.fetch.failure import FetchError
from mmdata.spec import FetchSpec

T = TypeVar("T")

_jitter = random.Random()  # Meant to differ between processes that fail together; no result depends on it.


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number of seconds, or an HTTP date (RFC 9110, 10.2.3).
    A date in the past asks for 0; what is neither is as if it were absent.

    >>> retry_after("120"), retry_after("soon"), retry_after(None)
    (120.0, None, None)
    >>> retry_after("Wed, 21 Oct 2015 07:28:00 GMT", datetime(2015, 10, 21, 7, 27, tzinfo=UTC))
    60.0
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:18])
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def backoff(spec: FetchSpec, tries: int) -> float:
    """Seconds to wait after `tries` failed attempts (>= 1): drawn between half and the whole of the doubling step."""
    step = spec.backoff_seconds * 2.0 ** min(tries - 1, 60)
    return min(step * _jitter.uniform(0.5, 1.0), spec.backoff_max_seconds)


async def persist(spec: FetchSpec, attempt: Callable[[bool], Awaitable[T]]) -> T:
    """Call `attempt(fresh)` until it succeeds, fails for good, or has been made 1 + retries times.

    `fresh` asks for a new connection: after a reset, the next attempt must not meet another kept-alive
    connection that the server has forgotten, or the result would depend on when the request was made.
    For the same reason a stale connection cannot be what a record finally fails of.
    """
    fresh = False
    for tries in itertools.count(1):
        try:
            return await attempt(fresh)
        except FetchError as error:
            if error.state != "failed_transient" or error.final:
                raise
            if tries > spec.retries and not error.stale:
                raise
            if error.after is not None and error.after > spec.backoff_max_seconds:
                raise
            fresh = fresh or error.reason == "reset"
            wait = 0.0 if error.stale else backoff(spec, tries) if error.after is None else error.after
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")
