"""Who may start a request, and when: places for the whole run, places and a pace per host, and pauses."""

from __future__ import annotations

import asyncio
import bisect
import math
from collections import deque

CRAWL_DELAY_MAX = 30.0
"""Seconds between two requests to a host that are granted at most, whatever its robots.txt asks for."""

_SECOND = 1.01  # With a margin for clocks.
_UNHEARD = 1.0  # Seconds after which a request is taken to have reached its host, answered or not.
_FEW = 1024


class _Host:
    __slots__ = (
        "last",
        "listed",
        "name",
        "paused_until",
        "refusals",
        "returns",
        "running",
        "timer",
        "unheard",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self.waiting: deque[tuple[asyncio.Future[int], float]] = deque()
        self.unheard: dict[int, float] = {}  # Ticket -> time of the start, for requests not known to have arrived.
        self.returns: deque[float] = deque()  # Ascending times at which spent tokens come back.
        self.last = -math.inf  # When the host was last known to hear from us.
        self.paused_until = -math.inf
        self.refusals = 0  # In a row.
        self.timer: asyncio.TimerHandle | None = None
        self.listed = False


class Limits:
    """Lets requests start, first come first served within a host and in turn among hosts.

    `concurrency` requests run at once, `per_host` of them against one host, and no host hears from us more than
    `rate` times within any second: a bucket with one second's worth of tokens, each of which comes back one
    second after the request that it was spent on is known to have arrived, by its response. (Counted from the
    start instead, two requests a second apart here can be less apart there; and a bucket that refills evenly
    lets twice the rate through in its first second.) A request without a response counts as arrived after a
    second. For a rate below 1 there is one token, which comes back after 1 / rate seconds.

    A place of the run is given only together with the host's consent, so that whoever waits for a slow host
    stands in nobody's way. Memory is bounded: hosts are forgotten once they no longer count.
    """

    def __init__(self, *, concurrency: int, per_host: int, rate: float) -> None:
        self._free = concurrency
        self._per_host = per_host
        self._tokens = max(1, math.floor(rate))
        self._window = _SECOND / min(rate, 1.0)
        self._hosts: dict[str, _Host] = {}
        self._ring: deque[_Host] = deque()  # Hosts with somebody waiting that may be ready.
        self._ticket = 0
        self._sweep_at = _FEW

    async def start(self, name: str, gap: float = 0.0) -> int:
        """Wait for the turn of a request to host `name`, at least `gap` seconds after the host last heard from us.

        Returns a ticket, to be given to `done` when the request is over. Or 0: no turn was given, the host's
        waiters were recalled to look at the world again.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        host = self._host(name, now)
        if self._free and not host.waiting and host.running < self._per_host and self._ready_at(host, gap, now) <= now:
            return self._grant(host, now)
        turn: asyncio.Future[int] = loop.create_future()
        host.waiting.append((turn, gap))
        self._enlist(host)
        self._deal(loop)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.done(name, turn.result())
            raise

    def heard(self, name: str, ticket: int) -> None:
        """The host has begun to answer the request."""
        host = self._hosts[name]
        if host.unheard.pop(ticket, None) is None:
            return
        loop = asyncio.get_running_loop()
        host.last = loop.time()
        host.returns.append(host.last + self._window)
        if host.timer is not None:  # It was set for the latest time at which the token could come back.
            host.timer.cancel()
            self._again(host, loop)

    def done(self, name: str, ticket: int) -> None:
        """The request that was let through is over."""
        self.heard(name, ticket)
        host = self._hosts[name]
        host.running -= 1
        self._free += 1
        if host.waiting:
            self._enlist(host)
        if self._ring:
            self._deal(asyncio.get_running_loop())

    def pause(self, name: str, seconds: float) -> None:
        """Start nothing more against the host for a while. What is under way goes on."""
        now = asyncio.get_running_loop().time()
        host = self._host(name, now)
        host.paused_until = max(host.paused_until, now + seconds)

    def refused(self, name: str, base: float, most: float) -> None:
        """Pause after a refusal that asks for too long a wait: doubling from `base` to `most` seconds while
        refusals follow one another."""
        host = self._host(name, asyncio.get_running_loop().time())
        self.pause(name, min(most, base * 2.0 ** min(host.refusals, 60)))
        host.refusals += 1

    def accepted(self, name: str) -> None:
        """The host has served a request."""
        self._hosts[name].refusals = 0

    def recall(self, name: str) -> None:
        """Make every waiter of the host return 0."""
        host = self._hosts.get(name)
        while host is not None and host.waiting:
            turn, _ = host.waiting.popleft()
            if not turn.done():
                turn.set_result(0)

    def __len__(self) -> int:
        """Number of hosts remembered."""
        return len(self._hosts)

    def _ready_at(self, host: _Host, gap: float, now: float) -> float:
        """When the host may be asked next, as far as is known: no later than this, if nothing else happens."""
        while host.returns and host.returns[0] <= now:
            host.returns.popleft()
        if len(host.unheard) + len(host.returns) >= self._tokens:
            self._give_up_hearing(host, now)
        ready = max(host.paused_until, host.last + gap) if gap else host.paused_until
        if len(host.unheard) + len(host.returns) < self._tokens:
            return ready
        latest = next(iter(host.unheard.values()), math.inf) + _UNHEARD + self._window
        return max(ready, min(latest, host.returns[0] if host.returns else math.inf))

    def _give_up_hearing(self, host: _Host, now: float) -> None:
        while host.unheard:
            ticket, started = next(iter(host.unheard.items()))
            if started + _UNHEARD > now:
                return
            del host.unheard[ticket]
            if started + _UNHEARD + self._window > now:
                bisect.insort(host.returns, started + _UNHEARD + self._window)

    def _grant(self, host: _Host, now: float) -> int:
        self._ticket += 1
        self._free -= 1
        host.running += 1
        host.last = now
        host.unheard[self._ticket] = now
        return self._ticket

    def _enlist(self, host: _Host) -> None:
        if not host.listed and host.timer is None and host.running < self._per_host:
            host.listed = True
            self._ring.append(host)

    def _deal(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the free places to the hosts in turn."""
        while self._free and self._ring:
            host = self._ring.popleft()
            host.listed = False
            while host.waiting and host.waiting[0][0].done():  # Cut off while waiting.
                host.waiting.popleft()
            if not host.waiting or host.running >= self._per_host:
                continue
            turn, gap = host.waiting[0]
            now = loop.time()
            ready = self._ready_at(host, gap, now)
            if ready > now:
                host.timer = loop.call_at(ready, self._again, host, loop)
                continue
            host.waiting.popleft()
            turn.set_result(self._grant(host, now))
            if host.waiting:
                self._enlist(host)

    def _again(self, host: _Host, loop: asyncio.AbstractEventLoop) -> None:
        host.timer = None
        if host.waiting:
            self._enlist(host)
            self._deal(loop)

    def _host(self, name: str, now: float) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._sweep_at:
                self._sweep(now)
            host = self._hosts[name] = _Host(name)
        return host

    def _sweep(self, now: float) -> None:
        """Forget hosts that no longer count. Done when their number has doubled, so that it costs O(1) per host."""
        past = now - max(self._window, CRAWL_DELAY_MAX)
        for host in list(self._hosts.values()):
            idle = not (host.running or host.waiting or host.listed or host.timer)
            if idle and host.paused_until <= now and host.last <= past:
                del self._hosts[host.name]
        self._sweep_at = max(_FEW, 2 * len(self._hosts))
