"""StreamLoader: threads read and decode ahead; batches come in order, and the state counts what was taken."""

from __future__ import annotations

import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Cursor, Deal
from mmdata.stream.device import Copier
from mmdata.stream.making import Made, Making, job
from mmdata.stream.position import Position
from mmdata.stream.stats import LoaderStats, Tally
from mmdata.stream.workers import ProcessReaders, Readers, ThreadReaders

Batch = Any
AHEAD = 8
"""Batches that are made in front of the one that was last taken, unless told otherwise."""


class StreamLoader:
    """Batches of a StreamingDataset in its order, whoever makes them.

    - `collate` makes a batch of what the dataset yields: of a Packed (`PackedCollator`), or with `batch_size` of a list
      of that many. Without it the batch is the value, or the list. Batches do not reach over a global step of packs;
      samples that cannot be read are left out of theirs.
    - `transform` is applied to each value first, in the threads. A DataError that it raises is its sample's fault,
      which is then skipped and counted; anything else stops the run.
    - `threads` read and decode, in this process or, with `workers`, in each of so many others; at most `ahead` batches
      in front of the one that was last taken. `multiprocessing_context` says how processes start. The default is
      threads here: they start at once, share memory, and decode without the interpreter. Beside a trainer that holds
      it for part of each step, `workers=1` made 0.77 (0.53 to 0.95) of their steps a second, and DataLoader workers
      0.90 (0.55 to 0.96), on two cores that were busy otherwise (`benchmarks.stream_workers`). `workers` are for a
      `transform` or `collate` that is itself much Python, and would hold the trainer's interpreter.
    - `device`: where tensors go, copied from page-locked memory beside the model's work; for the CPU, nothing is done.

    Like the dataset, `iter()` and `steps()` always start where `seek`, `set_epoch` or `load_state_dict` last put the
    dataset. `stats()` tells what the stages of the pass took. Processes last until `close()`, or as long as this.
    """

    def __init__(
        self,
        dataset: StreamingDataset,
        collate: Callable[[Any], Batch] | None = None,
        *,
        transform: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        threads: int = 2,
        workers: int = 0,
        ahead: int = AHEAD,
        device: str | torch.device | None = None,
        multiprocessing_context: str = "forkserver",
    ) -> None:
        if dataset.family is not None and collate is None:
            raise SpecError("StreamLoader: give packs a `collate`: PackedCollator()")
        for name, value in {
            "batch_size": batch_size or 1,
            "batch_tokens": batch_tokens or 1,
            "threads": threads,
            "ahead": ahead,
        }.items():
            if value < 1:
                raise SpecError(f"StreamLoader: {name} is {value}; at least 1 is needed")
        if workers < 0:
            raise SpecError(f"StreamLoader: workers is {workers}; 0 (threads of this process) is the least")
        self.dataset = dataset
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        """Planned tokens of the packs of a batch at most; a pack that has more is a batch of its own. Then steps of
        different ranks have different numbers of batches."""
        self.threads = threads
        self.workers = workers
        self.ahead = ahead
        if transform is None and getattr(collate, "owned", None) is False:
            collate = replace(collate, owned=True)  # type: ignore[type-var]
        self._making = Making(dataset, collate, transform, batch_size is not None)
        self._context = multiprocessing_context
        self._copier = Copier(device)
        self._processes: ProcessReaders | None = None
        self._progress: Cursor | None = None
        self._tally: Tally | None = None
        self.dealt: tuple[Deal, ...] = ()
        """Of the step that `steps` gave last, where it got so far: what this rank was dealt."""

    @property
    def bad(self) -> Counter[str]:
        """Samples taken masked or left out so far, by reason."""
        return self.dataset.bad

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self._batches())

    def steps(self) -> Iterator[list[Batch]]:
        """The batches that this rank takes in each global step; without `batch_tokens`, every rank gets equally
        many."""
        if self.dataset.family is None:
            raise SpecError("StreamLoader: steps are of packs; a stream without a family has batches only")
        step: list[Batch] = []
        dealt: list[Deal] = []
        for deals, batch in self._batches():
            step.append(batch)
            dealt += deals
            if deals[-1].micro + 1 == deals[-1].micros:
                self.dealt = tuple(dealt)
                yield step
                step, dealt = [], []

    def state_dict(self) -> dict[str, Any]:
        """After the batch (or step) that was last taken, whatever has been read ahead; JSON values, at most 4 KB."""
        return self.dataset.state_at(self._progress or self.dataset.start)

    @property
    def position(self) -> Position:
        """Where the pack after the batch (or step) that was last taken lies: the same on all ranks after a step."""
        return (self._progress or self.dataset.start).position

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on after the state. Raises SpecError for a state of other data or another config."""
        self.dataset.load_state_dict(saved)
        self._progress = None

    def stats(self) -> LoaderStats:
        """What the stages of the pass that was begun last took so far; see `LoaderStats.verdict`."""
        return (self._tally or self._counting()).stats()

    def close(self) -> None:
        """End the worker processes; the next pass starts new ones."""
        if self._processes is not None:
            self._ending()
            self._processes = None

    def _counting(self) -> Tally:
        return Tally(threads=self.threads * max(1, self.workers), ahead=self.ahead)

    def _batches(self) -> Iterator[tuple[tuple[Deal, ...], Batch]]:
        """Each batch with its deals, which are accounted for."""
        self._progress = self.dataset.start
        tally = self._tally = self._counting()
        readers = self._readers()
        planning = ThreadPoolExecutor(1, thread_name_prefix="mmdata-plan")
        finalizing = sys.is_finalizing
        try:
            coming = _Coming(self, tally, readers, planning)
            while (taken := coming.take()) is not None:
                for dealt, value in zip(taken.deals, taken.values, strict=True):
                    self.dataset.account(dealt, value)
                self._progress = taken.deals[-1].after
                if taken.batch is not None:
                    yield taken.deals, self._copier.finish(taken.batch)
        finally:
            if not finalizing():  # with the interpreter all of it ends, and modules have lost their names
                tally.end()
                planning.shutdown(wait=False, cancel_futures=True)
                if readers is not self._processes:
                    readers.close()

    def _readers(self) -> Readers:
        if not self.workers:
            return ThreadReaders(self._making, self.threads)
        if self._processes is None:
            self._processes = ProcessReaders(self._making, self.workers, self.threads, self._context)
            # Also where a loader is forgotten, and at the interpreter's end while modules still have their names.
            self._ending = weakref.finalize(self, self._processes.close)
        return self._processes

    def groups(self) -> Iterator[tuple[Deal, ...]]:
        """The deals of each batch."""
        size, group, held = self.batch_size or 1, list[Deal](), 0
        for dealt in self.dataset.deals():
            tokens = 0 if dealt.pack is None else dealt.pack.tokens
            if group and self.batch_tokens is not None and held + tokens > self.batch_tokens:
                yield tuple(group)
                group, held = [], 0
            group.append(dealt)
            held += tokens
            ends_step = self.dataset.family is not None and dealt.micro + 1 == dealt.micros
            if len(group) == size or ends_step:
                yield tuple(group)
                group, held = [], 0
        if group:
            yield tuple(group)


@dataclass(slots=True)
class _Taken:
    deals: tuple[Deal, ...]
    values: tuple[Any, ...]
    batch: Any
    """What `Copier.finish` wants; None where no sample could be read."""


class _Coming:
    """The batches of one pass that are being planned, read and copied."""

    def __init__(self, loader: StreamLoader, tally: Tally, readers: Readers, planning: ThreadPoolExecutor) -> None:
        self._loader = loader
        self._tally = tally
        self._readers = readers
        self._planning = planning
        self._groups: Iterator[tuple[Deal, ...]] | None = loader.groups()
        self._waiting: deque[tuple[tuple[Deal, ...], Future[Made]]] = deque()
        self._copying: deque[_Taken] = deque()
        self._block: tuple[int, int] | None = None

    def take(self) -> _Taken | None:
        """The next batch, waited for; None at the end."""
        asked = time.perf_counter()
        ready = len(self._copying) + sum(future.done() for _, future in self._waiting)
        self._fill()
        if not self._copying and not self._start_copy():
            return None
        taken = self._copying.popleft()
        if self._loader._copier.active and self._waiting and self._waiting[0][1].done():
            self._start_copy()  # It runs while the trainer works on the batch before.
        self._fill()
        self._tally.took(asked, ready)
        return taken

    def _fill(self) -> None:
        """Have as many batches made as may be ahead."""
        while self._groups is not None and len(self._waiting) + len(self._copying) < self._loader.ahead:
            began = time.perf_counter()
            deals = next(self._groups, None)
            if deals is None:
                self._groups = None
                return
            self._tally.spent.count("plan", time.perf_counter() - began)
            self._plan_ahead(deals[-1].after)
            self._waiting.append((deals, self._readers.submit(job(self._loader.dataset, deals))))

    def _plan_ahead(self, after: Cursor) -> None:
        """Have the block behind the one that is being read planned, so that nobody waits for it later."""
        at = after.position
        if (at.epoch, at.block) == self._block:
            return
        self._block = at.epoch, at.block
        dataset = self._loader.dataset
        ends = None if dataset.spec.epochs is None else after.first_epoch + dataset.spec.epochs

        def plan() -> None:  # What it raises is raised again when the block is really asked for.
            began = time.perf_counter()
            following = dataset.planner.block(at).after
            if ends is None or following.epoch < ends:
                dataset.planner.block(following)
            self._tally.spent.count("plan", time.perf_counter() - began)

        if ends is None or at.epoch < ends:
            self._planning.submit(plan)

    def _start_copy(self) -> bool:
        """Wait for the next batch and begin its copy; whether there was one."""
        if not self._waiting:
            return False
        deals, future = self._waiting.popleft()
        made = future.result()
        batch = None
        if made.batch is not None:
            began = time.perf_counter()
            copier = self._loader._copier
            batch = copier.start(copier.pin(made.batch))
            if copier.active:
                self._tally.spent.count("copy", time.perf_counter() - began)
        self._tally.spent.add(made.spent)
        self._loader.dataset.fallbacks.update(made.spent.fallbacks)
        self._copying.append(_Taken(deals, made.values, batch))
        return True
