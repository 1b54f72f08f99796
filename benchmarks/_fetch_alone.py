"""The least that a build from URLs can be: `python -m benchmarks._fetch_alone TABLE CONNECTIONS` asks for each URL of a
parquet table with aiohttp, so many at a time, and drops what comes. Nothing else is imported, checked or written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import aiohttp
import pyarrow.parquet as pq


async def fetch(urls: list[str], connections: int) -> int:
    """Bytes of all bodies."""
    waiting: Iterator[str] = iter(urls)
    total = 0

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal total
        for url in waiting:
            async with session.get(url) as response:
                response.raise_for_status()
                total += len(await response.read())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
        await asyncio.gather(*(ask(session) for _ in range(connections)))
    return total


if __name__ == "__main__":
    path, connections = sys.argv[1:]
    assert asyncio.run(fetch(pq.read_table(path, columns=["URL"])["URL"].to_pylist(), int(connections))) > 0
