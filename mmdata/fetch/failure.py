"""Why a fetch failed: one exception type, and the translation of everything the network can throw into it."""

from __future__ import annotations

import errno
import ssl

import aiohttp

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


class Dropped(Exception):
    """The connection ended before the head of a response; `stale` as in FetchError."""

    def __init__(self, stale: bool) -> None:
        super().__init__(stale)
        self.stale = stale


class Garbled(Exception):
    """The framing of a body is broken."""


def explain(error: Exception, *, lost: BaseException | None = None) -> FetchError:
    """Translate what aiohttp raised. `lost` is what ended the connection while a body was being read, if it
    was not the server's orderly close.

    Raises RunError where the failure is this machine's and every further request would fail the same way.
    """
    detail = f"{type(error).__name__}: {error}"[:300]
    match error:
        case FetchError():
            return error
        case Dropped():
            return transient("reset", "the connection closed before an answer", stale=error.stale)
        case aiohttp.ConnectionTimeoutError():
            return transient("connect_timeout", detail)
        case aiohttp.SocketTimeoutError():
            return transient("read_timeout", detail)
        case aiohttp.ClientConnectorCertificateError():
            return FetchError("tls_error", detail)
        case aiohttp.ClientConnectorSSLError() if isinstance(error.os_error, ssl.SSLEOFError):
            return transient("reset", detail)
        case aiohttp.ClientSSLError():
            return FetchError("tls_error", detail)
        case aiohttp.ClientConnectorError():
            return _connect_error(error.os_error, detail)
        case aiohttp.ClientPayloadError():
            return transient("short_body", detail) if lost is None else transient("reset", detail)
        case aiohttp.ClientResponseError() | Garbled():
            return FetchError("bad_response", detail)
        case aiohttp.InvalidURL():
            return FetchError("bad_url", detail)
        case TimeoutError():
            return transient("total_timeout", detail)
        case aiohttp.ClientError() | OSError():
            return transient("reset", detail)
        case ValueError():
            # What the URL became could not be put into a request.
            return FetchError("bad_url", detail)
        case _:
            raise error


def _connect_error(error: OSError, detail: str) -> FetchError:
    if error.errno in _OUT_OF_FILES:
        raise RunError("too many open files: lower fetch.concurrency or raise the limit (ulimit -n)") from error
    if error.errno == errno.ETIMEDOUT:
        return transient("connect_timeout", detail)
    return transient("connect_error", detail)
