"""Hosts that nobody answers for: after enough vain attempts in a row, further ones fail at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from mmdata.fetch.failure import UNREACHABLE, FetchError
from mmdata.fetch.url import Origin

FAILURES = 20
"""Attempts in a row that must have failed before an origin is taken to be unreachable."""
RETRY_SECONDS = 60.0
"""After this long requests are let through again, until one fails: an outage must not outlast itself in a run
of days."""
_REMEMBERED = 100_000


class Breaker:
    """Counts, per origin, the attempts that reached nobody since the last that did."""

    def __init__(self) -> None:
        self._vain: OrderedDict[Origin, tuple[int, FetchError, float]] = OrderedDict()

    def check(self, origin: Origin) -> None:
        """Raise the origin's last failure if it is taken to be unreachable."""
        if origin not in self._vain:
            return
        count, error, retry_at = self._vain[origin]
        if count < FAILURES:
            return
        if asyncio.get_running_loop().time() >= retry_at:
            self._vain[origin] = (FAILURES - 1, error, retry_at)  # The next failure closes the door again.
            return
        detail = f"not asked: {count} attempts in a row reached nobody; the last: {error.detail}"
        raise FetchError(error.reason, detail, state=error.state, final=True)

    def failed(self, origin: Origin, error: FetchError) -> bool:
        """Count a failure of a kind in UNREACHABLE. True if the origin is (now) taken to be unreachable."""
        if error.reason not in UNREACHABLE:
            return False
        count = self._vain[origin][0] + 1 if origin in self._vain else 1
        self._vain[origin] = (count, error, asyncio.get_running_loop().time() + RETRY_SECONDS)
        self._vain.move_to_end(origin)
        if len(self._vain) > _REMEMBERED:
            self._vain.popitem(last=False)
        return count >= FAILURES

    def answered(self, origin: Origin) -> None:
        self._vain.pop(origin, None)
