"""Opening connections, to judged addresses alone, and keeping those that may be asked again."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections import deque
from typing import Any

from mmdata.fetch.address import Resolver
from mmdata.fetch.connection import Connection
from mmdata.fetch.failure import connect_error, transient
from mmdata.fetch.url import Origin

KEPT_SECONDS = 5.0
"""How long an idle connection is kept. Servers let go of theirs; the sooner we do, the fewer are found closed."""
_STAGGER = 0.25  # Seconds until the next address of a host is tried beside the last (RFC 8305, 5).


class Connections:
    """Idle connections by origin; the one used last is asked first."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._idle: dict[Origin, deque[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, origin: Origin) -> Connection | None:
        """An idle connection, if there is one."""
        kept = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - KEPT_SECONDS
        while kept:
            connection = kept.pop()
            if connection.idle and connection.since >= oldest:
                return connection
            connection.close()
        return None

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep it if it is idle; else it is closed, in the middle of an answer too."""
        if not connection.idle:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.since = loop.time()
        kept = self._idle.get(origin)
        if kept is None:
            kept = self._idle[origin] = deque()
        kept.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEPT_SECONDS, self._sweep)

    async def open(self, origin: Origin, seconds: float) -> Connection:
        """A new connection to one of the origin's addresses, the first that answers.

        Raises FetchError: what the resolver does, `connect_timeout`, `connect_error`, `tls_error`, `reset`; and
        RunError where this machine cannot open more files."""
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        addresses = await self._resolver.addresses(host)
        secured: dict[str, Any] = {"ssl": trusted(), "server_hostname": host} if scheme == "https" else {}
        try:
            async with asyncio.timeout(seconds):
                if len(addresses) == 1:
                    _, connection = await loop.create_connection(Connection, addresses[0], port, **secured)
                else:
                    from aiohappyeyeballs import start_connection  # most hosts have one address that answers

                    found = [
                        (
                            socket.AF_INET6 if ":" in address else socket.AF_INET,
                            socket.SOCK_STREAM,
                            0,
                            "",
                            (address, port),
                        )
                        for address in addresses
                    ]
                    opened = await start_connection(found, happy_eyeballs_delay=_STAGGER, interleave=1)
                    _, connection = await loop.create_connection(Connection, sock=opened, **secured)
        except TimeoutError as error:
            raise transient("connect_timeout", f"no connection within {seconds:g} s") from error
        except (OSError, ValueError) as error:
            raise connect_error(error) from error
        return connection

    def close(self) -> None:
        """Close all that are idle."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEPT_SECONDS
        for origin, kept in list(self._idle.items()):
            while kept and (kept[0].since <= oldest or not kept[0].idle):
                kept.popleft().close()
            if not kept:
                del self._idle[origin]
        self._sweeper = loop.call_later(KEPT_SECONDS, self._sweep) if self._idle else None


@functools.cache
def trusted() -> ssl.SSLContext:
    """What of TLS is believed: the system's certificates. Loaded when a first connection wants them."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
