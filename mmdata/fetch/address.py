"""Which machines may be talked to: the judgement of addresses, and a resolver that hands out no others."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from mmdata.fetch.failure import FetchError, transient

# What `is_global` of some Python releases calls public although the IANA special-purpose registries do not, or
# where an address stands for another machine than the one it seems to name.
_NEVER_4 = "0.0.0.0/8 100.64.0.0/10 192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 240.0.0.0/4"
_NEVER_6 = "::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10"
_NEVER = tuple(ipaddress.ip_network(network) for network in f"{_NEVER_4} {_NEVER_6}".split())
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_REMEMBERED = 50_000  # Hosts; about 20 MB.
_FOUND_SECONDS, _MISSING_SECONDS = 300.0, 60.0
_NOT_FOUND = frozenset(
    {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None)}
)


def is_public(address: str) -> bool:
    """Whether a literal IPv4 or IPv6 address belongs to the public unicast internet. Addresses that embed an
    IPv4 address (mapped, 6to4, NAT64) are judged by that one. Raises ValueError if it is no address.

    >>> is_public("93.184.216.34"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("64:ff9b::7f00:1")
    (True, False, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.scope_id is not None:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _NEVER if net.version == ip.version)


class Resolver(AbstractResolver):
    """Names to addresses, through the operating system, for aiohttp's connector and for early answers.

    The only source of addresses that the connector has, so that the address judged is the address connected
    to, however a name changes its mind in between. Look-ups of one name are made once at a time and remembered;
    none takes longer than `seconds`. `lookup` has the signature of `socket.getaddrinfo`.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        seconds: float,
        threads: int,
        lookup: Callable[..., list[Any]] = socket.getaddrinfo,
    ) -> None:
        self._allow_private = allow_private
        self._seconds = seconds
        self._lookup = lookup
        # Its own threads: look-ups of dead names must not queue in front of anybody else's work.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._free = asyncio.Semaphore(threads)
        self._known: OrderedDict[str, tuple[float, list[str] | FetchError]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[list[str] | FetchError]] = {}

    async def check(self, host: str) -> None:
        """Raise FetchError (`private_address`, `dns_not_found`, `dns_error`, `bad_url`) unless `host`, a name or a
        literal address, may be connected to."""
        known = self._known.get(host)
        if known is None or known[0] < asyncio.get_running_loop().time() or isinstance(known[1], FetchError):
            await self.addresses(host)

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host` that may be connected to, at least one. Raises as `check`."""
        loop = asyncio.get_running_loop()
        expires, found = self._known.get(host, (0.0, None))
        if found is None or expires < loop.time():
            task = self._asked.get(host)
            if task is None:
                task = self._asked[host] = loop.create_task(self._resolve(host))
                task.add_done_callback(lambda _: self._asked.pop(host, None))
            # Shielded: the record that asked first may be cut off, those that wait with it are not.
            found = await asyncio.shield(task)
        if isinstance(found, FetchError):
            raise found.again()
        return found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self.addresses(host)
        ]

    async def close(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, host: str) -> list[str] | FetchError:
        loop = asyncio.get_running_loop()
        result: list[str] | FetchError
        try:
            addresses = await self._all_addresses(host)
            public = addresses if self._allow_private else [a for a in addresses if is_public(a)]
            if public:
                result = public
            else:
                shown = "" if addresses == [host] else f" is {addresses[0]}, which"
                result = FetchError("private_address", f"{host}{shown} is not a public address")
        except FetchError as error:
            result = error
        if not (isinstance(result, FetchError) and result.state == "failed_transient"):
            keep = _MISSING_SECONDS if isinstance(result, FetchError) else _FOUND_SECONDS
            self._known[host] = (loop.time() + keep, result)
            self._known.move_to_end(host)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return result

    async def _all_addresses(self, host: str) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        name = host.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3: loopback without asking anybody.
            return ["127.0.0.1", "::1"]
        if name == "invalid" or name.endswith(".invalid"):  # RFC 6761, 6.4: never exists.
            raise FetchError("dns_not_found", f"{host}: names under .invalid do not exist")
        await self._free.acquire()
        asked = asyncio.get_running_loop().run_in_executor(
            self._threads, functools.partial(self._lookup, host, 0, type=socket.SOCK_STREAM)
        )
        # Given back by the thread, not by the waiter, or slow names would pile up behind the pool unseen.
        asked.add_done_callback(lambda _: self._free.release())
        try:
            infos = await asyncio.wait_for(asyncio.shield(asked), self._seconds)
        except TimeoutError:
            asked.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise transient("dns_error", f"{host}: no answer within {self._seconds:g} s") from None
        except socket.gaierror as error:
            if error.errno in _NOT_FOUND:
                raise FetchError("dns_not_found", f"{host}: {error.strerror}") from error
            raise transient("dns_error", f"{host}: {error.strerror}") from error
        except OSError as error:
            raise transient("dns_error", f"{host}: {error}") from error
        except ValueError as error:  # The IDNA codec: a label that is empty or too long.
            raise FetchError("bad_url", f"{host[:200]!r} is not a host name: {error}") from error
        return list(dict.fromkeys(_address(info[4]) for info in infos))


def _address(sockaddr: tuple[Any, ...]) -> str:
    """The address with its zone, without which a link-local one cannot be told from others."""
    address = str(sockaddr[0])
    return f"{address}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] and "%" not in address else address
