"""The local engine: fetch in this process, steps in worker processes, commit in input order.

Rows are admitted in input order and finish in any; a unit is decided and written when all its rows are
there and all units before it are committed. So the result does not depend on the number of workers, and
what is in memory does not depend on the size of the input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdata.engine.blobs import OWN, Slot, give, take
from mmdata.engine.commit import Kept
from mmdata.engine.ordered import OrderedSteps
from mmdata.engine.pool import Pool, Process
from mmdata.engine.spool import FileSpool, Held, Memory, Spool
from mmdata.engine.worker import THUMBNAILS, Job, Outcome, Setup, as_fields, at_sight
from mmdata.errors import RunError
from mmdata.ledger import LedgerRow
from mmdata.spec import BuildSpec, Record
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.fetch.client import Fetched, Fetcher


@dataclass(slots=True)
class Row:
    """One input record on its way: what was fetched, what the steps said, where its media wait."""

    record: Record
    drop: Drop | None = None
    step: int | None = None
    sample: Sample | None = None
    held: dict[Slot, Held] = field(default_factory=dict)
    signatures: dict[int, dict[str, bytes]] = field(default_factory=dict)
    thumbnail: bytes | None = None
    facts: Media | None = None
    attempts: int = 0
    status: int | None = None
    seconds: float | None = None
    size: int | None = None

    def ledger_row(self) -> LedgerRow:
        record, sample = self.record, self.record.sample
        facts = self.facts or (sample.media[0] if sample.media else None)
        return LedgerRow(
            row=record.row,
            key=sample.key,
            origin=sample.origin.uri,
            origin_row=sample.origin.row,
            uri=sample.media[0].uri if sample.media else None,
            state=self.drop.state if self.drop else "ok",
            reason=self.drop.reason if self.drop else "",
            detail=self.drop.detail[:500].encode("utf-8", "replace").decode() if self.drop else "",
            step=self.step,
            of=self.drop.of if self.drop else None,
            attempts=self.attempts,
            status=self.status,
            seconds=self.seconds,
            size=self.size,
            sha256=facts.sha256 if facts else None,
            height=facts.height if facts else None,
            width=facts.width if facts else None,
            thumbnail=self.thumbnail,
        )


@dataclass(slots=True)
class Unit:
    """A fixed range of input rows. `closed` once the source has given its last one; `error`: it never will."""

    number: int
    spool: Spool | FileSpool
    rows: dict[int, Row] = field(default_factory=dict)
    pending: int = 0
    closed: bool = False
    error: Exception | None = None
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self) -> None:
        if self.closed and self.pending == 0:
            self.complete.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A unit whose rows are all decided, ready to be written. `kept` reads media as it goes."""

    number: int
    rows: list[LedgerRow]
    kept: Iterator[Kept]


Commit = Callable[[Finished], None]
HandOver = Callable[[Unit], None]
OnRow = Callable[[str, str], None]


def worker_count(spec: BuildSpec) -> int:
    """Worker processes: as many as asked for, else one per core this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return spec.engine.workers or available or 1


async def run(
    spec: BuildSpec,
    units: Iterator[tuple[int, Iterator[Record]]],
    *,
    folder: Path,
    ordered: OrderedSteps,
    commit: Commit,
    on_row: OnRow,
    stop: asyncio.Event,
    memory: Memory,
    forked: list[Process] | None = None,
    mapped: Iterator[Unit] | None = None,
    hand_over: HandOver | None = None,
) -> None:
    """Fetch and process the records of `units` and hand each finished unit to `commit`, in order.

    `commit` runs in a thread, one unit at a time. Setting `stop` abandons what is not yet committed. A build that is
    shared takes two turns: with `hand_over` a unit goes there, in place of `commit`, as soon as its rows are through
    the map steps; `mapped` are such units, complete, in place of `units`.

    Raises RunError (a bug in a step, a full disk) and DataError (an unreadable source).
    """
    # Here: it loads aiohttp, of which workers and the process of the report, forked before, have no use. They get ready
    # in the meantime.
    from mmdata.fetch.client import Fetcher

    workers = worker_count(spec)
    setup = Setup(
        plugins=spec.plugins,
        steps=as_fields(spec.steps),
        memory_mib=spec.engine.worker_memory_mib,
    )
    pool = Pool(setup, workers=workers, seconds=spec.engine.sample_seconds, forked=forked)
    try:
        async with Fetcher(spec.fetch) as fetcher:
            engine = _Engine(spec, fetcher, pool, folder, ordered, commit, on_row, memory, workers, hand_over)
            work = asyncio.create_task(engine.run(units) if mapped is None else engine.finish(mapped))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not work.done():
                await engine.abandon(work)
            elif (error := work.exception()) is not None:
                raise _first(error)
    finally:
        pool.close()


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of the group that a TaskGroup makes of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Engine:
    def __init__(
        self,
        spec: BuildSpec,
        fetcher: Fetcher,
        pool: Pool,
        folder: Path,
        ordered: OrderedSteps,
        commit: Commit,
        on_row: OnRow,
        memory: Memory,
        workers: int,
        hand_over: HandOver | None,
    ) -> None:
        self._spec = spec
        self._hand_over = hand_over
        self._fetcher = fetcher
        self._pool = pool
        self._folder = folder
        self._ordered = ordered
        self._commit = commit
        self._on_row = on_row
        self._memory = memory
        # Rows under way: enough to keep every connection and every worker busy, and no more.
        self._slots = asyncio.Semaphore(spec.fetch.concurrency + 4 * workers)
        self._units_ahead = asyncio.Semaphore(spec.engine.units_ahead)
        self._in_flight = 0  # bytes fetched and not yet through the steps
        self._drained = asyncio.Event()
        self._units: asyncio.Queue[Unit | None] = asyncio.Queue()
        self._committing = asyncio.Lock()

    async def run(self, units: Iterator[tuple[int, Iterator[Record]]]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commit_units())
            await self._admit(units, group)

    async def finish(self, mapped: Iterator[Unit]) -> None:
        """Commit units that other processes have mapped."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commit_units())
            while (unit := await asyncio.to_thread(next, mapped, None)) is not None:
                await self._units_ahead.acquire()
                for row in unit.rows.values():
                    if row.drop is not None:
                        self._on_row(row.drop.state, row.drop.reason)
                self._units.put_nowait(unit)
            self._units.put_nowait(None)

    async def abandon(self, work: asyncio.Task[None]) -> None:
        """Stop: rows under way are given up; a unit that is just being written is finished first."""
        async with self._committing:
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await work

    async def _admit(self, units: Iterator[tuple[int, Iterator[Record]]], group: asyncio.TaskGroup) -> None:
        reader = _Reader(units)
        unit: Unit | None = None
        try:
            while (item := await reader.get()) is not None:
                if isinstance(item, int):  # the number of the unit that the next records belong to
                    self._close(unit)
                    await self._units_ahead.acquire()
                    unit = Unit(item, Spool(self._folder / ".build" / "staging", self._memory))
                    self._units.put_nowait(unit)
                    continue
                assert unit is not None
                row = unit.rows[item.row] = Row(item)
                if item.drop is not None:
                    self._on_row(item.drop.state, item.drop.reason)
                    row.drop = item.drop
                    continue
                await self._slots.acquire()
                while self._in_flight > self._memory.limit:
                    self._drained.clear()
                    await self._drained.wait()
                unit.pending += 1
                group.create_task(self._handle(unit, row))
            self._close(unit)
            self._units.put_nowait(None)
        except Exception as error:
            if unit is None:
                raise
            unit.error = error  # told when its turn comes: the units before it are whole and worth keeping
            unit.complete.set()
        finally:
            reader.close()

    def _close(self, unit: Unit | None) -> None:
        if unit is not None:
            unit.closed = True
            unit.settle()

    async def _handle(self, unit: Unit, row: Row) -> None:
        try:
            sample = await self._fetch(row)
            if sample is not None:
                held = sum(len(media.data or b"") for media in sample.media)
                self._in_flight += held
                try:
                    outcome = at_sight(sample, self._spec.steps) or await self._pool.run(
                        Job(unit=unit.number, row=row.record.row, sample=sample)
                    )
                    _settle(unit, row, sample, outcome)
                finally:
                    self._in_flight -= held
                    self._drained.set()
            if row.drop is not None:
                self._on_row(row.drop.state, row.drop.reason)
        except OSError as error:
            raise RunError(f"{self._folder}: {error.strerror or error}") from error
        finally:
            self._slots.release()
            unit.pending -= 1
            unit.settle()

    async def _fetch(self, row: Row) -> Sample | None:
        """The sample with its media's bytes, or None after setting the row's drop."""
        sample = row.record.sample
        parts = []
        for part in sample.parts:
            if isinstance(part, Media) and part.data is None:
                fetched: Fetched = await self._fetcher.get(part.uri or "", part.place)
                row.attempts += fetched.attempts
                row.status = fetched.status
                row.seconds = round((row.seconds or 0.0) + fetched.seconds, 4)
                row.size = (row.size or 0) + fetched.size
                if fetched.drop is not None:
                    row.drop = fetched.drop
                    return None
                parts.append(replace(part, data=fetched.data, place=None))
            else:
                parts.append(part)  # type: ignore[arg-type]
        return replace(sample, parts=tuple(parts))

    async def _commit_units(self) -> None:
        while (unit := await self._units.get()) is not None:
            await unit.complete.wait()
            if unit.error is not None:
                raise unit.error
            if self._hand_over is not None:
                for row in unit.rows.values():
                    if row.drop is None:
                        self._on_row("ok", "")
                async with self._committing:
                    await asyncio.to_thread(self._hand_over, unit)
                unit.spool.close()
                self._units_ahead.release()
                continue
            _few_thumbnails(unit)
            in_order = [unit.rows[number] for number in sorted(unit.rows)]
            for row in self._ordered.foreseen(in_order):
                before = row.drop
                self._ordered.decide(row)
                if before is None:
                    self._on_row(row.drop.state if row.drop else "ok", row.drop.reason if row.drop else "")
            await self._picture_duplicates(unit)
            rows = [row.ledger_row() for row in in_order]
            finished = Finished(number=unit.number, rows=rows, kept=_kept(unit, self._ordered))
            async with self._committing:
                await asyncio.to_thread(self._commit, finished)
            unit.spool.close()
            self._units_ahead.release()

    async def _picture_duplicates(self, unit: Unit) -> None:
        """A few pictures of rows that only an ordered step rejected (map steps made theirs in the worker)."""
        made: dict[str, int] = {}
        for number in sorted(unit.rows):
            row = unit.rows[number]
            if row.drop is None or row.sample is None or made.get(row.drop.reason, 0) >= THUMBNAILS:
                continue
            made[row.drop.reason] = made.get(row.drop.reason, 0) + 1
            sample = _with_data(row, unit.spool)
            row.thumbnail = (await self._pool.run(Job(unit=unit.number, sample=sample, task="thumbnail"))).thumbnail


def _settle(unit: Unit, row: Row, given: Sample, outcome: Outcome) -> None:
    """Note the outcome, and put the media of a sample that may be kept aside until its unit's turn."""
    row.drop, row.step = outcome.drop, outcome.step
    row.signatures, row.facts = outcome.signatures, outcome.facts
    row.thumbnail = outcome.thumbnail
    if outcome.sample is None:
        return
    row.sample, blobs = take(outcome.sample)
    for number, medium in outcome.same.items():
        data = given.media[medium].data
        assert data is not None, given
        blobs[number, OWN] = data
    assert isinstance(unit.spool, Spool)
    row.held = {slot: unit.spool.put(data) for slot, data in blobs.items()}


def _few_thumbnails(unit: Unit) -> None:
    """Keep those of the first rows that map steps rejected for a reason: whichever worker had which row, the same."""
    kept: Counter[str] = Counter()
    for _, row in sorted(unit.rows.items()):
        if row.drop is not None and row.thumbnail is not None:
            kept[row.drop.reason] += 1
            if kept[row.drop.reason] > THUMBNAILS:
                row.thumbnail = None


def _with_data(row: Row, spool: Spool | FileSpool) -> Sample:
    assert row.sample is not None
    return give(row.sample, {slot: spool.get(held) for slot, held in row.held.items()})


def _kept(unit: Unit, ordered: OrderedSteps) -> Iterator[Kept]:
    for number in sorted(unit.rows):
        row = unit.rows[number]
        if row.drop is None:
            yield Kept(row=number, sample=_with_data(row, unit.spool), signatures=ordered.stored(row.signatures))


_AHEAD_BYTES = 32 << 20
"""Of media that come with their records, what is read ahead at most, but for one record."""


class _Reader:
    """Reads records in a thread, a bounded number ahead: opening row groups must not stall the event loop."""

    def __init__(self, units: Iterator[tuple[int, Iterator[Record]]], ahead: int = 64, chunk: int = 64) -> None:
        self._queue: queue.Queue[list[int | Record] | BaseException | None] = queue.Queue(ahead)
        self._chunk = chunk
        self._held = 0  # bytes of media in the queue
        self._room = threading.Condition()
        self._items: list[int | Record] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(units,), daemon=True)
        self._thread.start()

    async def get(self) -> int | Record | None:
        """The next unit number or record; None at the end. Raises what the source raised."""
        if not self._items:
            try:
                found: Any = self._queue.get_nowait()
            except queue.Empty:
                found = await asyncio.to_thread(self._queue.get)
            if found is None:
                return None
            if isinstance(found, BaseException):
                raise found
            with self._room:
                self._held -= sum(map(_held, found))
                self._room.notify()
            self._items = found[::-1]
        return self._items.pop()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(queue.Full):  # a `get` that waits in a thread would keep the loop from closing
            self._queue.put_nowait(None)

    def _read(self, units: Iterator[tuple[int, Iterator[Record]]]) -> None:
        chunk: list[int | Record] = []
        try:
            for number, records in units:
                chunk, size = [number], 0
                for record in records:
                    chunk.append(record)
                    size += _held(record)
                    if len(chunk) >= self._chunk or size > _AHEAD_BYTES // 4:
                        self._put(chunk)
                        chunk, size = [], 0
                if chunk:
                    self._put(chunk)
                chunk = []
            self._put(None)
        except BaseException as error:
            if chunk:
                self._put(chunk)
            self._put(error)

    def _put(self, item: list[int | Record] | BaseException | None) -> None:
        size = sum(map(_held, item)) if isinstance(item, list) else 0
        with self._room:
            while self._held and self._held + size > _AHEAD_BYTES and not self._closed.is_set():
                self._room.wait(timeout=0.2)
            self._held += size
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue


def _held(item: int | Record) -> int:
    """Bytes of media that an item of the queue holds."""
    return 0 if isinstance(item, int) else sum(len(media.data or b"") for media in item.sample.media)
