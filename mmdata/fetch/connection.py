"""Connections that can be told apart: new or kept alive, closed in order or lost. aiohttp hides both."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http_exceptions import HttpProcessingError

from mmdata.fetch.failure import Dropped, Garbled

if TYPE_CHECKING:
    from aiohttp.client_middlewares import ClientHandlerType
    from aiohttp.connector import Connection

_BLANK_LINE = b"\r\n\r\n"
FRESH = {"Connection": "close"}
"""Headers of a request that must have a connection of its own."""


class Handler(ResponseHandler):
    """aiohttp's protocol, that also counts its requests and remembers what ended it.

    Heads are parsed apart from bodies. Otherwise a server that sends more than its Content-Length says would
    get a different verdict when all of it happens to arrive in one piece: aiohttp's parser then fails on the
    excess before it has handed out the response.
    """

    requests = 0
    lost: BaseException | None = None
    _heard = 0.0  # When the peer last said something, on the loop's clock.
    _in_head = False
    _before = b""

    def set_response_params(self, **params: Any) -> None:
        self.requests += 1
        self._in_head, self._before = True, b""
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            seen = self._before + data  # The blank line may have been cut in two.
            end = seen.find(_BLANK_LINE)
            if end < 0:
                self._before = seen[-3:]
            else:
                self._in_head = False
                end += len(_BLANK_LINE) - len(self._before)
                super().data_received(data[:end])
                data = data[end:]
                if not data:
                    return
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Also tell whoever waits for the body. aiohttp lets them wait for their deadline if its framing breaks."""
        super().set_exception(exc, *cause)
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof() and not body.exception():
            error = Garbled(str(exc))
            body.set_exception(error)
            # Once more when its reader has run: one that was just woken for a chunk waits again without looking.
            self._loop.call_soon(body.set_exception, error)

    def _reschedule_timeout(self) -> None:
        """Note that the peer has been heard. aiohttp would set a new timer for each piece of a body."""
        self._heard = self._loop.time()
        if self._read_timeout_handle is None or not self._read_timeout:
            super()._reschedule_timeout()

    def _on_read_timeout(self) -> None:
        left = self._heard + (self._read_timeout or 0.0) - self._loop.time()
        if left > 0:
            self._read_timeout_handle = self._loop.call_later(left, self._on_read_timeout)
        else:
            super()._on_read_timeout()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = exc
        super().connection_lost(exc)


class Request(ClientRequest):
    """A request that knows whether its connection had served others before."""

    reused = False


class Connector(aiohttp.TCPConnector):
    """Pools connections without a limit of its own; a request that carries `FRESH` always gets a new one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(Handler, loop=self._loop))

    async def connect(self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        if req.headers.get("Connection") == "close":
            while _served(connection):
                connection.close()
                connection = await super().connect(req, traces, timeout)
        cast(Request, req).reused = _served(connection)
        return connection


def _served(connection: Connection) -> bool:
    return cast(Handler, connection.protocol).requests > 0


async def once(request: ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
    """Client middleware: one request on the wire per request made.

    aiohttp would silently repeat a GET whose connection dropped, past every limit of ours. Raises Dropped.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Dropped(stale=cast(Request, request).reused) from error
    except aiohttp.ClientResponseError as error:
        # What is no answer may be what the answer before had too much, which came after the connection was taken again.
        if cast(Request, request).reused:
            raise Dropped(stale=True) from error
        raise
