"""Why a fetch failed: one exception type, and the translation of what a connection can throw into it."""

from __future__ import annotations

import errno
import ssl

from mmdata.errors import DataError, RunError
from mmdata.types import Drop, State

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 530)})
"""Answers that another attempt may better (520-529 are those of content networks in front of a dead origin)."""

UNREACHABLE = frozenset({"connect_timeout", "connect_error", "dns_error", "dns_not_found"})
"""Reasons that say: nobody was there."""

_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class FetchError(DataError):
    """One request, or the record it was for, came to nothing.

    `after` is what `Retry-After` asked for, in seconds. `stale` says that a kept-alive connection had been
    closed by the server before this request reached it. `final` says that another attempt is pointless now,
    although the state may be transient.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        state: State = "failed_permanent",
        after: float | None = None,
        stale: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(reason, detail)
        self.state = state
        self.after = after
        self.stale = stale
        self.final = final

    def drop(self) -> Drop:
        return Drop(reason=self.reason, detail=self.detail, state=self.state)

    def again(self) -> FetchError:
        """An equal error to raise for another record: raising one object twice would chain their tracebacks."""
        return FetchError(
            self.reason, self.detail, state=self.state, after=self.after, stale=self.stale, final=self.final
        )


def transient(reason: str, detail: str = "", **more: bool) -> FetchError:
    return FetchError(reason, detail, state="failed_transient", **more)


def opted_out(reason: str, detail: str = "") -> FetchError:
    return FetchError(reason, detail, state="opted_out")


def status_error(status: int, detail: str = "", after: float | None = None) -> FetchError:
    """The error for an answer that is not the file.

    >>> status_error(404).state, status_error(503).state, status_error(522).reason
    ('failed_permanent', 'failed_transient', 'http_522')
    """
    state: State = "failed_transient" if status in TRANSIENT_STATUSES else "failed_permanent"
    return FetchError(f"http_{status}", detail, state=state, after=after)


def connect_error(error: Exception) -> FetchError:
    """Translate what opening a connection raised.

    Raises RunError where the failure is this machine's and every further connection would fail the same way.
    """
    detail = f"{type(error).__name__}: {error}"[:300]
    match error:
        case ssl.SSLEOFError():
            return transient("reset", detail)
        case ssl.SSLError():
            return FetchError("tls_error", detail)
        case OSError(errno=number) if number in _OUT_OF_FILES:
            raise RunError("too many open files: lower fetch.concurrency or raise the limit (ulimit -n)") from error
        case OSError(errno=errno.ETIMEDOUT):
            return transient("connect_timeout", detail)
        case OSError():
            return transient("connect_error", detail)
        case _:  # What the host became could not be connected to.
            return FetchError("bad_url", detail)
