"""Pace and places: measured at a real server, and on the limiter alone with its own clock."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import Any

from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.fetch.client import Fetched, Fetcher
from mmdata.fetch.limits import Limits
from mmdata.spec import FetchSpec, RespectSpec
from tests.fetch.site import FAST, Site, get, run, site


async def slow(_: web.Request) -> web.Response:
    await asyncio.sleep(0.05)
    return web.Response(body=b"x")


async def many(count: int, host: str = "127.0.0.1", **spec: Any) -> tuple[list[Fetched], Site]:
    async with site() as served:
        served.fallback = slow
        async with Fetcher(FetchSpec(**FAST | spec)) as fetcher:
            return list(await asyncio.gather(*(fetcher.get(served.url(f"/{i}", host)) for i in range(count)))), served


def busiest_second(times: list[float]) -> int:
    """The largest number of entries within any one second."""
    return max(sum(start <= t < start + 1.0 for t in times) for start in times)


def test_no_second_sees_more_starts_than_the_rate() -> None:
    results, served = run(lambda: many(100, per_host_rate=25, per_host_concurrency=50))
    assert all(r.data for r in results)
    times = [t for t, _ in served.log]
    assert busiest_second(times) <= 25
    assert times[-1] - times[0] < 20.0, (
        "the rate is also used: 75 after the first second take three more, on an idle machine"
    )


def test_rates_below_one_keep_their_distance() -> None:
    _, served = run(lambda: many(4, per_host_rate=0.99, respect=RespectSpec(robots=False)))
    times = [t for t, _ in served.log]
    assert min(b - a for a, b in itertools.pairwise(times)) > 1.0


def test_concurrency_per_host_and_of_the_run() -> None:
    _, served = run(lambda: many(60, per_host_concurrency=5))
    assert served.most == 5
    _, served = run(lambda: many(60, per_host_concurrency=50, concurrency=7))
    assert served.most == 7


def test_a_slow_host_holds_no_place_of_the_run() -> None:
    """One host lets one request a minute through; with two places in all, the other host's records still pass."""

    async def test() -> list[Fetched]:
        async with site() as served:
            served.fallback = slow
            served.fixed("/robots.txt", b"User-agent: *\nCrawl-delay: 60")
            async with site() as other:
                other.fallback = slow
                async with Fetcher(FetchSpec(**FAST | {"concurrency": 2, "run_seconds": 1.5})) as fetcher:
                    waiting = [asyncio.create_task(fetcher.get(served.url(f"/{i}"))) for i in range(20)]
                    await asyncio.sleep(0.2)
                    done = await asyncio.gather(*(fetcher.get(other.url(f"/{i}")) for i in range(10)))
                    ends = await asyncio.gather(*waiting)
                    assert [r.drop.reason for r in ends if r.drop] == ["run_deadline"] * 20
                    return done

    assert all(r.data for r in run(test))


def test_crawl_delay_spaces_requests() -> None:
    async def test() -> list[float]:
        async with site() as served:
            served.fallback = slow
            served.fixed("/robots.txt", b"User-agent: *\nCrawl-delay: 0.3")
            async with Fetcher(FetchSpec(**FAST)) as fetcher:
                await asyncio.gather(*(fetcher.get(served.url(f"/{i}")) for i in range(5)))
            return [t for t, _ in served.log]

    times = run(test)
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.28


def test_429_pauses_the_host_for_as_long_as_it_says() -> None:
    async def test() -> tuple[list[Fetched], Site]:
        async with site() as served:
            refused = False

            async def answer(request: web.Request) -> web.Response:
                nonlocal refused
                if not refused:
                    refused = True
                    return web.Response(status=429, headers={"Retry-After": "1"})
                return await slow(request)

            served.fallback = answer
            async with Fetcher(FetchSpec(**FAST | {"per_host_concurrency": 1})) as fetcher:
                results = await asyncio.gather(*(fetcher.get(served.url(f"/{i}")) for i in range(5)))
            return list(results), served

    results, served = run(test)
    assert all(r.data for r in results)
    assert results[0].attempts == 2
    times = [t for t, _ in served.images]
    assert times[1] - times[0] >= 1.0, "nobody asks during the pause, the other records neither"
    assert times[-1] - times[0] < 4.5, "the pause of one second is one for all five"


def test_who_asks_for_too_much_patience_is_given_up_on() -> None:
    async def test(value: str) -> tuple[Fetched, int]:
        async with site() as served:
            served.fixed("/x", b"", 503, Retry_After=value)
            return await get(served.url("/x")), served.asked("/x")

    for value in ("3600", "Fri, 31 Dec 2099 23:59:59 GMT"):
        fetched, asked = run(lambda v=value: test(v))
        assert fetched.drop is not None
        assert (fetched.drop.state, fetched.drop.reason, asked) == ("failed_transient", "http_503", 1)
        assert fetched.seconds < 60, "not the hour that was asked for"


# The limiter alone.


def test_hosts_take_turns() -> None:
    async def test() -> list[str]:
        limits = Limits(concurrency=1, per_host=10, rate=1e6)
        order: list[str] = []

        async def record(host: str) -> None:
            ticket = await limits.start(host)
            order.append(host)
            await asyncio.sleep(0)
            limits.done(host, ticket)

        await asyncio.gather(*(record("a") for _ in range(50)), *(record(h) for h in "bcd"))
        return order

    order = run(test)
    assert set("bcd") <= set(order[:8]), "three records need not wait behind fifty of another host"


def test_a_cancelled_waiter_gives_its_place_back() -> None:
    async def test() -> None:
        limits = Limits(concurrency=1, per_host=1, rate=1e6)
        first = await limits.start("a")
        waiting = [asyncio.create_task(limits.start("a")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        limits.done("a", first)  # Grants the second ...
        waiting[1].cancel()  # ... which is cut off before it hears of it.
        limits.done("a", await waiting[2])
        assert await limits.start("b")

    run(test)


def test_recalled_waiters_get_no_turn() -> None:
    async def test() -> list[int]:
        limits = Limits(concurrency=1, per_host=1, rate=1e6)
        assert await limits.start("a")
        waiting = [asyncio.create_task(limits.start("a")) for _ in range(3)]
        await asyncio.sleep(0)
        limits.recall("a")
        return await asyncio.gather(*waiting)

    assert run(test) == [0] * 3


class Clock(asyncio.SelectorEventLoop):
    """An event loop that never waits: its time jumps to whatever comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            assert timeout is not None, "nothing will ever happen again"
            self.now += timeout + 1e-6
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.01, 0.3, 1.7])), min_size=1, max_size=60),
    concurrency=st.integers(1, 8),
    per_host=st.integers(1, 4),
    rate=st.sampled_from([0.5, 1, 2.5, 7, 100]),
    gap=st.sampled_from([0.0, 0.4]),
    travel=st.sampled_from([0.0, 0.9]),
)
def test_limits_hold_for_any_load(
    jobs: list[tuple[str, float]], concurrency: int, per_host: int, rate: float, gap: float, travel: float
) -> None:
    """`travel` is how long some requests take to arrive: it is the arrivals that may not come too fast."""
    starts: dict[str, list[float]] = defaultdict(list)
    running: dict[str, int] = defaultdict(int)
    clock = Clock()

    async def job(limits: Limits, host: str, seconds: float) -> None:
        ticket = await limits.start(host, gap)
        assert ticket
        running[host] += 1
        assert running[host] <= per_host
        assert sum(running.values()) <= concurrency
        await asyncio.sleep(min(seconds, travel))
        starts[host].append(clock.time())
        await asyncio.sleep(seconds)
        if seconds > 1:
            limits.heard(host, ticket)
            await asyncio.sleep(seconds)
        running[host] -= 1
        limits.done(host, ticket)

    async def test() -> None:
        limits = Limits(concurrency=concurrency, per_host=per_host, rate=rate)
        await asyncio.gather(*(job(limits, host, seconds) for host, seconds in jobs))

    try:
        clock.run_until_complete(test())
    finally:
        clock.close()
    assert sum(map(len, starts.values())) == len(jobs)
    for times in map(sorted, starts.values()):
        assert busiest_second(times) <= max(1, rate)
        for earlier, later in itertools.pairwise(times):
            assert travel or later - earlier >= gap - 1e-9
            if rate < 1:
                assert later - earlier >= 1 / rate


def test_idle_hosts_are_forgotten() -> None:
    clock = Clock()

    async def test() -> int:
        limits = Limits(concurrency=10, per_host=1, rate=1e6)
        most = 0
        for number in range(20_000):
            limits.done(f"host{number}", await limits.start(f"host{number}"))
            clock.now += 0.1
            most = max(most, len(limits))
        return most

    try:
        assert clock.run_until_complete(test()) < 2000
    finally:
        clock.close()
