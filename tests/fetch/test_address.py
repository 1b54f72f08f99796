"""The guard of addresses, and a resolver that a changing name cannot trick."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mmdata.fetch.address import Resolver, is_public
from mmdata.fetch.exchange import Exchange, Tally
from mmdata.fetch.failure import FetchError
from mmdata.spec import FetchSpec
from tests.fetch.site import FAST, Site, run, site

PRIVATE = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1
::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:169.254.169.254 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1
64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2002:7f00:1::
2002:a00:1::1 2002:c0a8:101:: 3fff::1 5f00::1 fc00::1 fd12:3456::1 fe80::1 fe80::1%1 febf::1 fec0::1
ff02::1 ff0e::1
"""
PUBLIC = """
1.1.1.1 8.8.8.8 93.184.216.34 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.167.0.1 198.17.0.1
198.20.0.1 223.255.255.255 2606:4700::1111 2a00:1450:4001:81b::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8
2002:808:808::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_disguises_change_nothing(address: ipaddress.IPv4Address) -> None:
    for shell in (
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        f"2002:{int(address) >> 16:x}:{int(address) & 65535:x}::",
    ):
        assert is_public(shell) == is_public(str(address)), shell
    if address.is_private or address.is_loopback or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))


class Names:
    """The look-up of a hostile or broken DNS: `answers` per host, used up one by one, the last for ever."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {host.replace("_", "."): list(found) for host, found in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers[host]
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            time.sleep(answer)
            answer = ["8.8.8.8"]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in answer]


def resolver(names: Names, **more: Any) -> Resolver:
    return Resolver(**{"allow_private": False, "seconds": 0.3, "threads": 4, "lookup": names} | more)


async def verdict(names: Names, host: str = "a.org", **more: Any) -> Any:
    judge = resolver(names, **more)
    try:
        return await judge.addresses(host)
    except FetchError as error:
        return error.state.removeprefix("failed_"), error.reason
    finally:
        await judge.close()


def test_verdicts() -> None:
    assert run(verdict, Names(a_org=[["8.8.8.8", "10.0.0.1", "::1", "1.1.1.1"]])) == ["8.8.8.8", "1.1.1.1"]
    assert run(verdict, Names(a_org=[["10.0.0.1", "::1"]])) == ("permanent", "private_address")
    assert run(lambda: verdict(Names(a_org=[["10.0.0.1"]]), allow_private=True)) == ["10.0.0.1"]
    missing = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert run(verdict, Names(a_org=[missing])) == ("permanent", "dns_not_found")
    again = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert run(verdict, Names(a_org=[again])) == ("transient", "dns_error")
    assert run(verdict, Names(a_org=[0.6])) == ("transient", "dns_error")
    assert run(lambda: verdict(Names(), "x" * 64 + ".org", lookup=socket.getaddrinfo)) == ("permanent", "bad_url")


def test_a_name_is_looked_up_once_at_a_time_and_remembered() -> None:
    async def test() -> list[str]:
        names = Names(a_org=[["8.8.8.8"]], b_org=[socket.gaierror(socket.EAI_NONAME, "no")])
        judge = resolver(names)
        await asyncio.gather(*(judge.check("a.org") for _ in range(50)))
        await judge.check("a.org")
        for _ in range(3):
            with pytest.raises(FetchError, match="dns_not_found"):
                await judge.check("b.org")
        await judge.close()
        return names.asked

    assert sorted(run(test)) == ["a.org", "b.org"]


def test_transient_failures_are_not_remembered() -> None:
    async def test() -> list[str]:
        judge = resolver(Names(a_org=[socket.gaierror(socket.EAI_AGAIN, "later"), ["8.8.8.8"]]))
        with pytest.raises(FetchError, match="dns_error"):
            await judge.check("a.org")
        try:
            return await judge.addresses("a.org")
        finally:
            await judge.close()

    assert run(test) == ["8.8.8.8"]


class Amnesiac(Resolver):
    """Forgets what it knows, as if every look-up came after the last one's expiry."""

    async def addresses(self, host: str) -> list[str]:
        self._known.clear()
        return await super().addresses(host)


@pytest.mark.parametrize("robots", [True, False])
def test_a_name_that_changes_its_mind_is_refused_at_the_connection(robots: bool) -> None:
    """DNS rebinding: public when judged, loopback when connected to. The server must never hear of it."""

    async def test() -> tuple[FetchError, Site, list[str]]:
        names = Names(a_org=[["8.8.8.8"], ["127.0.0.1"]])
        judge = Amnesiac(allow_private=False, seconds=1.0, threads=2, lookup=names)
        exchange = Exchange(FetchSpec(**FAST | {"allow_private": False}), judge)

        async def read(response: aiohttp.ClientResponse) -> bytes:
            return await response.read()

        async with site() as served:
            with pytest.raises(FetchError) as caught:
                await exchange.ask(URL(served.url("/x", "a.org")), read, Tally())
            await exchange.close()
            return caught.value, served, names.asked

    error, served, asked = run(test)
    assert error.reason == "private_address"
    assert served.log == []
    assert len(asked) == 2
