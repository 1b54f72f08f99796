"""Who may start a request, and when: places for the whole run, places and a pace per host, and pauses."""

from __future__ import annotations

import asyncio
import math
from collections import deque

CRAWL_DELAY_MAX = 30.0
"""Seconds between two requests to a host that are granted at most, whatever its robots.txt asks for."""

_MARGIN = 1.05
"""Requests leave a little later than they are granted, some more than others. Without this margin two that
were granted a second apart could arrive less than a second apart."""
_FEW = 1024


class _Host:
    __slots__ = ("listed", "name", "paused_until", "refusals", "running", "starts", "timer", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self.waiting: deque[tuple[asyncio.Future[bool], float]] = deque()
        self.starts: deque[float] = deque()  # Times of the last starts, those that still count.
        self.paused_until = 0.0
        self.refusals = 0  # In a row.
        self.timer: asyncio.TimerHandle | None = None
        self.listed = False


class Limits:
    """Lets requests start, first come first served within a host and in turn among hosts.

    `concurrency` requests run at once, `per_host` of them against one host, and no second sees more than
    `rate` starts against one host: a bucket of one second's worth of tokens, each of which comes back one
    second after it was spent (for a rate below 1, one token that comes back after 1 / rate seconds). A
    plain refilling bucket would let twice the rate through in its first second.

    A place of the run is given only together with the host's consent, so that whoever waits for a slow host
    stands in nobody's way. Memory is bounded: hosts are forgotten once they no longer count.
    """

    def __init__(self, *, concurrency: int, per_host: int, rate: float) -> None:
        self._free = concurrency
        self._per_host = per_host
        self._tokens = max(1, math.floor(rate))
        self._window = _MARGIN * (1.0 if rate >= 1 else 1.0 / rate)
        self._hosts: dict[str, _Host] = {}
        self._ring: deque[_Host] = deque()  # Hosts with somebody waiting that may be ready.
        self._sweep_at = _FEW

    async def start(self, name: str, gap: float = 0.0) -> bool:
        """Wait for the turn of a request to host `name`, at least `gap` seconds after the one before it.

        True: go ahead, and call `done` afterwards. False: no turn was given, the host's waiters were recalled
        to look at the world again.
        """
        loop = asyncio.get_running_loop()
        host = self._host(name, loop.time())
        if self._free and not host.waiting and host.running < self._per_host:
            now = loop.time()
            if self._ready_at(host, gap) <= now:
                self._grant(host, now)
                return True
        turn: asyncio.Future[bool] = loop.create_future()
        host.waiting.append((turn, gap))
        self._enlist(host)
        self._deal(loop)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.done(name)
            raise

    def done(self, name: str) -> None:
        """The request to host `name` that was let through is over."""
        host = self._hosts[name]
        host.running -= 1
        self._free += 1
        if host.waiting:
            self._enlist(host)
        if self._ring:
            self._deal(asyncio.get_running_loop())

    def pause(self, name: str, seconds: float) -> None:
        """Start nothing more against the host for a while. What is under way goes on."""
        loop = asyncio.get_running_loop()
        host = self._host(name, loop.time())
        host.paused_until = max(host.paused_until, loop.time() + seconds)

    def refused(self, name: str, base: float, most: float) -> None:
        """Pause after a refusal that does not say for how long (or for too long): doubling from `base` to `most`
        seconds while refusals follow one another."""
        host = self._host(name, asyncio.get_running_loop().time())
        self.pause(name, min(most, base * 2.0 ** min(host.refusals, 60)))
        host.refusals += 1

    def accepted(self, name: str) -> None:
        """The host has served a request."""
        self._hosts[name].refusals = 0

    def recall(self, name: str) -> None:
        """Make every waiter of the host return False."""
        host = self._hosts.get(name)
        while host is not None and host.waiting:
            turn, _ = host.waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def __len__(self) -> int:
        """Number of hosts remembered."""
        return len(self._hosts)

    def _ready_at(self, host: _Host, gap: float) -> float:
        ready = host.paused_until
        if host.starts:
            if gap:
                ready = max(ready, host.starts[-1] + gap)
            if len(host.starts) >= self._tokens:
                ready = max(ready, host.starts[-self._tokens] + self._window)
        return ready

    def _grant(self, host: _Host, now: float) -> None:
        host.running += 1
        self._free -= 1
        host.starts.append(now)
        while len(host.starts) > 1 and host.starts[0] + self._window <= now:
            host.starts.popleft()

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
            ready = self._ready_at(host, gap)
            if ready > now:
                host.timer = loop.call_at(ready, self._ring_again, host, loop)
                continue
            host.waiting.popleft()
            self._grant(host, now)
            turn.set_result(True)
            if host.waiting:
                self._enlist(host)

    def _ring_again(self, host: _Host, loop: asyncio.AbstractEventLoop) -> None:
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
            if idle and host.paused_until <= now and (not host.starts or host.starts[-1] <= past):
                del self._hosts[host.name]
        self._sweep_at = max(_FEW, 2 * len(self._hosts))
