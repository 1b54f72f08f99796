"""Reading ahead: what was wanted comes once, in bounded memory, in few reads, whatever the order and whoever asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, RunError
from mmdata.rng import generator
from mmdata.shards.access import open_source
from mmdata.shards.cache import Cache
from mmdata.shards.prefetch import Prefetcher, Request
from mmdata.shards.ranges import Range, coalesce
from mmdata.shards.remote import RemoteSource
from mmdata.testing.server import FaultServer

SIZE = 200_000


class Memory:
    """A source that counts its reads, and can be slow, refuse what is damaged, or be kept."""

    def __init__(self, uri: str, *, wait: float = 0.0, damaged: tuple[int, int] = (0, 0), keeps: bool = False) -> None:
        self.uri = uri
        self.size = SIZE
        self.data = generator("prefetch", uri).bytes(SIZE)
        self.wait = wait
        self.damaged = Range(*damaged)
        self.keeps = keeps
        self.kept = 0
        self.reads: list[Range] = []
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, offset: int, size: int) -> bytes:
        self.reads.append(Range(offset, offset + size))
        assert self.gate.wait(20)
        time.sleep(self.wait)
        if offset < self.damaged.end and self.damaged.start < offset + size:
            raise DataError("shard_cut", self.uri)
        return self.data[offset : offset + size]

    def keep(self) -> bool:
        self.kept += 1
        return self.keeps

    def request(self, offset: int, size: int) -> Request:
        return Request(self, offset, size)

    def expected(self, request: Request) -> bytes:
        return self.data[request.offset : request.offset + request.size]


def drawn(sources: list[Memory], count: int, seed: int = 0, longest: int = 3000) -> list[Request]:
    draw = generator("requests", seed)
    return [
        sources[int(draw.integers(len(sources)))].request(
            int(draw.integers(SIZE - longest)), int(draw.integers(longest))
        )
        for _ in range(count)
    ]


def until(condition: Callable[[], object]) -> None:
    """Who asks before a thread has begun reads alone: tests of what the threads do wait until they have done it."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


def settled(ahead: Prefetcher, reads: int) -> None:
    until(lambda: ahead.stats.reads >= reads)


spans = st.builds(lambda start, size: Range(start, start + size), st.integers(0, 300), st.integers(0, 60))


@example([Range(0, 0), Range(1, 1), Range(2, 2)], 1, 2)
@given(st.lists(spans, max_size=12), st.integers(0, 20), st.integers(1, 120))
def test_ranges_lie_whole_in_one_read_and_reads_are_bounded(ranges: list[Range], gap: int, limit: int) -> None:
    reads = coalesce(ranges, gap=gap, limit=limit)
    assert sorted(number for _, inside in reads for number in inside) == list(range(len(ranges)))
    for read, inside in reads:
        members = [ranges[number] for number in inside]
        assert read == Range(min(m.start for m in members), max(m.end for m in members))
        assert read.end - read.start <= max(limit, *(m.end - m.start for m in members))
        covered = {at for m in members for at in range(m.start, m.end)}
        missing = [at for at in range(read.start, read.end) if at not in covered]
        begins = {m.start for m in members}  # an empty one, too, ends a gap
        runs = sum(at - 1 not in missing or at in begins for at in missing)
        assert len(missing) <= gap * max(runs, 0)
    starts = [read.start for read, _ in reads]
    assert starts == sorted(starts)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(500, 20_000))
@example(seed=22559, threads=1, ahead_bytes=500)  # the last piece of a file is an empty one
def test_everything_comes_once_in_bounded_memory(seed: int, threads: int, ahead_bytes: int) -> None:
    sources = [Memory(f"m://{number}") for number in range(3)]
    requests = drawn(sources, 60, seed)
    requests += requests[:10]  # the same twice
    with Prefetcher(ahead_bytes=ahead_bytes, threads=threads) as ahead:
        ahead.want(requests[:25])
        for number, request in enumerate(requests):
            if number == 20:
                ahead.want(requests[25:])
            source = request.source
            assert isinstance(source, Memory)
            assert ahead.get(request) == source.expected(request)
        assert ahead.take(requests[0].key) is None  # handed over already
        assert ahead.stats.requests == len(requests)
        assert ahead.stats.most_ahead <= max(ahead_bytes, 3000)
        assert ahead._ahead == 0
        assert not ahead._waiting
        assert not ahead._pieces
        assert not ahead._files


def test_any_thread_may_ask_in_any_order() -> None:
    sources = [Memory(f"m://{number}", wait=0.001) for number in range(4)]
    requests = drawn(sources, 200)
    order = generator("asking").permutation(len(requests))
    with Prefetcher(ahead_bytes=10_000, threads=4) as ahead, ThreadPoolExecutor(8) as pool:
        ahead.want(requests)
        found = list(pool.map(lambda at: (int(at), ahead.get(requests[at])), order))
    for at, data in found:
        source = requests[at].source
        assert isinstance(source, Memory)
        assert data == source.expected(requests[at])
    assert ahead.stats.most_ahead <= 10_000


def test_neighbours_share_a_read() -> None:
    source = Memory("m://0")
    requests = [source.request(at * 1000, 900) for at in range(50)]
    with Prefetcher(threads=1) as ahead:
        source.gate.clear()
        ahead.want(requests[:1])
        until(lambda: source.reads)
        ahead.want(requests[1:])
        source.gate.set()
        settled(ahead, 2)
        assert [ahead.get(request) for request in requests] == [source.expected(request) for request in requests]
    assert source.reads == [Range(0, 900), Range(1000, 49_900)]


def test_bytes_are_there_before_they_are_asked_for() -> None:
    source = Memory("m://0")
    requests = [source.request(at * 50_000, 100) for at in range(3)]
    with Prefetcher(threads=2) as ahead:
        ahead.want(requests)
        settled(ahead, 1)
        before = len(source.reads)
        assert ahead.get(requests[1]) == source.expected(requests[1])
        assert (len(source.reads), ahead.stats.direct, ahead.stats.waited) == (before, 0, 0)


def test_a_file_of_which_most_is_wanted_is_kept_whole_while_the_cache_has_room(tmp_path: Path) -> None:
    much, more, little = (
        Memory("m://much", keeps=True),
        Memory("m://more", keeps=True),
        Memory("m://little", keeps=True),
    )
    with Prefetcher(cache=Cache(tmp_path, int(1.5 * SIZE)), threads=1) as ahead:
        requests = [source.request(at, 10_000) for source in (much, more) for at in range(0, SIZE, 10_000)]
        ahead.want([*requests, little.request(0, 10_000)])
        settled(ahead, 2)  # of the second and the third, while the first is still wanted
        for request in [*requests, little.request(0, 10_000)]:
            assert ahead.get(request) == request.source.expected(request)  # type: ignore[attr-defined]
        assert (much.kept, more.kept, little.kept) == (1, 0, 0)  # two would not fit together
        assert ahead.stats.whole == 1
        ahead.want(requests[20:])
        until(lambda: more.kept)
        for request in requests[20:]:
            ahead.get(request)
        assert more.kept == 1  # the first is not needed any more


def test_a_file_that_cannot_be_kept_is_read_by_ranges(tmp_path: Path) -> None:
    source = Memory("m://0")
    with Prefetcher(cache=Cache(tmp_path, 10 * SIZE), threads=2) as ahead:
        requests = [source.request(at, 10_000) for at in range(0, SIZE, 10_000)]
        ahead.want(requests)
        until(lambda: source.kept)
        assert b"".join(map(ahead.get, requests)) == source.data
        assert source.kept == 1


def test_damage_fails_the_requests_that_meet_it_and_no_others() -> None:
    source = Memory("m://0", damaged=(5_500, 5_600))
    requests = [source.request(at * 1000, 1000) for at in range(10)]
    with Prefetcher(threads=1) as ahead:
        ahead.want(requests)
        settled(ahead, 1)
        for number, request in enumerate(requests):
            if number == 5:
                with pytest.raises(DataError, match="shard_cut"):
                    ahead.get(request)
            else:
                assert ahead.get(request) == source.expected(request)
        assert ahead._ahead == 0


def test_a_file_of_which_much_is_expected_is_kept(tmp_path: Path) -> None:
    sources = [Memory(f"m://{number}", keeps=True) for number in range(2)]
    with Prefetcher(cache=Cache(tmp_path, 10 * SIZE), threads=2) as ahead:
        ahead.expect({"m://1": SIZE // 2})
        requests = [source.request(0, 10) for source in sources]
        ahead.want(requests)
        settled(ahead, 1)
        until(lambda: ahead.stats.whole)
        assert [ahead.get(request) for request in requests] == [source.data[:10] for source in sources]
    assert [source.kept for source in sources] == [0, 1]


def test_what_is_released_gives_its_room_back() -> None:
    source = Memory("m://0")
    requests = [source.request(at * 50_000, 1000) for at in range(4)]
    with Prefetcher(threads=1, ahead_bytes=2000) as ahead:
        pieces = ahead.want([requests[0], *requests])  # the first one twice, in one read
        settled(ahead, 1)
        assert ahead.get(requests[0]) == source.expected(requests[0])
        settled(ahead, 2)
        ahead.release(pieces[:2])  # the first of them was handed over, and stays so
        ahead.release(pieces[:2])
        settled(ahead, 3)
        assert (ahead.stats.reads, ahead.stats.most_ahead) == (3, 2000)
        assert ahead.take(requests[0].key) is None
        assert ahead.get(requests[1]) == source.expected(requests[1])


def test_closing_wakes_who_waits() -> None:
    source = Memory("m://0")
    source.gate.clear()
    ahead = Prefetcher(threads=1)
    ahead.want([source.request(0, 10)])
    until(lambda: source.reads)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ahead.get, source.request(0, 10))
        until(lambda: ahead.stats.waited)
        closing = threading.Thread(target=ahead.close)
        closing.start()
        with pytest.raises(ValueError, match="closed"):
            waiting.result(10)
        source.gate.set()
        closing.join(10)
    assert not any(thread.is_alive() for thread in ahead._threads)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("origin")
    for name in ("a", "b"):
        (root / f"{name}.tar").write_bytes(generator("prefetch", name).bytes(SIZE))
    with FaultServer(root, {"origins": {"main": {"paths": {"/down.tar": {"status": 403}}}}}) as running:
        yield running


def test_a_remote_source_hands_over_what_was_read_ahead(server: FaultServer, tmp_path: Path) -> None:
    data = {name: generator("prefetch", name).bytes(SIZE) for name in ("a", "b")}
    cache = Cache(tmp_path, 10 * SIZE)
    server.clear_log()
    with Prefetcher(cache=cache) as ahead:
        a, b = (open_source(f"{server.url}/{name}.tar", cache=cache, size=SIZE, ahead=ahead) for name in ("a", "b"))
        assert isinstance(a, RemoteSource)
        assert isinstance(b, RemoteSource)
        few = [Request(a, at, 100) for at in (10, 150, 400)]
        all_of_it = [Request(b, at, 1000) for at in range(0, SIZE, 1000)]
        ahead.want([*few, *all_of_it])
        settled(ahead, 1)
        until(lambda: ahead.stats.whole)
        assert [a.read(r.offset, r.size) for r in few] == [data["a"][r.offset : r.offset + r.size] for r in few]
        assert b"".join(b.read(r.offset, r.size) for r in all_of_it) == data["b"]
        assert a.read(500, 5) == data["a"][500:505]  # unwanted, and read at once
        asked = [(request.path, request.range) for request in server.log()]
        assert ("/a.tar", "bytes=10-499") in asked
        assert ("/b.tar", f"bytes=0-{SIZE - 1}") in asked
        assert cache.used() == SIZE


def test_a_server_that_refuses_stops_who_asks(server: FaultServer) -> None:
    with Prefetcher() as ahead:
        source = RemoteSource(f"{server.url}/down.tar", size=SIZE, ahead=ahead)
        ahead.want([Request(source, 0, 10)])
        with pytest.raises(RunError, match=r"down.tar: refused with HTTP status 403"):
            source.read(0, 10)
