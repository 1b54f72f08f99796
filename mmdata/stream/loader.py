"""StreamLoader: threads read and decode packs ahead; batches come in order, and the state counts what was taken."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Cursor, Deal
from mmdata.types import Packed

Batch = dict[str, Any]


class StreamLoader:
    """Batches of a StreamingDataset with a family, one per pack, in its order.

    `collate` makes a batch of a Packed (`PackedCollator`); `threads` read and decode, at most `ahead` packs in
    front of the one that was last taken. Like the dataset, `iter()` and `steps()` always start where `seek`,
    `set_epoch` or `load_state_dict` last put the dataset.
    """

    def __init__(
        self,
        dataset: StreamingDataset,
        collate: Callable[[Packed], Batch],
        *,
        threads: int = 2,
        ahead: int = 8,
    ) -> None:
        if dataset.family is None:
            raise SpecError("StreamLoader makes batches of packs: give the dataset a family")
        if threads < 1 or ahead < 1:
            raise SpecError(f"StreamLoader: {threads} threads, {ahead} ahead; at least 1 of each is needed")
        self.dataset = dataset
        self.collate = collate
        self.threads = threads
        self.ahead = ahead
        self._progress: Cursor | None = None

    @property
    def bad(self) -> Counter[str]:
        """Samples taken masked so far, by reason."""
        return self.dataset.bad

    def __iter__(self) -> Iterator[Batch]:
        for _, batch in self._batches():
            yield batch

    def steps(self) -> Iterator[list[Batch]]:
        """The batches that this rank takes in each global step; every rank gets equally many."""
        step: list[Batch] = []
        for dealt, batch in self._batches():
            step.append(batch)
            if dealt.micro + 1 == dealt.micros:
                yield step
                step = []

    def state_dict(self) -> dict[str, Any]:
        """After the batch (or step) that was last taken, whatever has been read ahead; JSON values, at most 4 KB."""
        return self.dataset.state_at(self._progress or self.dataset.start)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on after the state. Raises SpecError for a state of other data or another config."""
        self.dataset.load_state_dict(saved)
        self._progress = None

    def _batches(self) -> Iterator[tuple[Deal, Batch]]:
        self._progress = self.dataset.start
        deals = self.dataset.deals()
        waiting: deque[tuple[Deal, Future[tuple[Packed, Batch]]]] = deque()
        pool = _reading_pool(self.threads)
        try:
            while True:
                while len(waiting) < self.ahead and (dealt := next(deals, None)) is not None:
                    waiting.append((dealt, pool.submit(self._make, dealt)))
                if not waiting:
                    return
                dealt, future = waiting.popleft()
                packed, batch = future.result()
                self.dataset.account(dealt, packed)
                self._progress = dealt.after
                yield dealt, batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, dealt: Deal) -> tuple[Packed, Batch]:
        packed = self.dataset.read(dealt)
        assert isinstance(packed, Packed), dealt
        return packed, self.collate(packed)


def _reading_pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch does not fan out: a resize of one image on all cores, in every thread at once, takes four
    times as long as on one. The setting is each thread's own; the model's threads keep theirs."""
    before = torch.get_num_threads()
    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="mmdata-read")
    for _ in range(threads):
        pool.submit(start)
    started.wait()
    torch.set_num_threads(before)  # what threads that start from now on (autograd's, too) begin with
    return pool
