"""What a run does about samples that cannot be read, or must not: count, note, keep bytes, stop when too many fail."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmdata.errors import Budget, DataError
from mmdata.shards.dataset import Dataset
from mmdata.stream.deal import Cursor, Deal
from mmdata.stream.forgotten import FORGOTTEN, Forgotten
from mmdata.stream.quarantine import keep
from mmdata.stream.skips import Mark, Skip, SkipLog
from mmdata.stream.spec import StreamSpec
from mmdata.templates import ANSWERS
from mmdata.types import Item, Packed

log = logging.getLogger(__name__)


class BadSamples:
    """The samples of a stream that were masked or skipped: `counts` by reason, as this process took them.

    Those that are `forgotten` are counted and nothing else: they are no failures, and no byte of them is kept."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: StreamSpec,
        skips: SkipLog,
        quarantine: Path | None,
        forgotten: Forgotten,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.skips = skips
        self.forgotten = forgotten
        self._datasets = datasets
        self._spec = spec
        self._quarantine = quarantine
        self._budgets: dict[int, Budget] = {}
        # At the interpreter's end, when an iterator that was left half way counts, the module may have lost its names.
        self._begun = partial(Budget, **spec.failures.model_dump())

    def begin(self) -> None:
        """Count anew for the budgets: a pass begins."""
        self._budgets.clear()

    def known(self, item: Item) -> str | None:
        """Why the run already masks this sample, if it does."""
        if item in self.forgotten:
            return FORGOTTEN
        if not len(self.skips):
            return None
        return self.skips.reason(item.dataset, self.key(item))

    def key(self, item: Item) -> str:
        """The key of a sample; plans of streams without a family do not carry it."""
        return item.key or self._datasets[item.dataset].keys_at([item.position])[0]  # type: ignore[arg-type]

    def good(self, dataset: int, count: int) -> None:
        """So many samples of a dataset could be read, one after the other."""
        if count:
            (self._budgets.get(dataset) or self._budget(dataset)).ok(count)

    def _budget(self, dataset: int) -> Budget:
        return self._budgets.setdefault(dataset, self._begun())

    def account(self, dealt: Deal, value: object) -> None:
        """Note what could not be read of a deal: of a Packed its `masked`, else a DataError in place of the sample.

        Raises RunError that names shard, row, key and cause of the last failure once a dataset's budget is spent.
        """
        if dealt.pack is None:
            return
        masked: dict[int, str] = {}
        if isinstance(value, Packed):
            reasons = (reason for _, reason in value.masked)
            masked = dict(zip(_numbers(value), reasons, strict=True))
        for number, item in enumerate(dealt.pack.items):
            budget = self._budgets.get(item.dataset) or self._budget(item.dataset)
            if isinstance(value, DataError):
                self._failed(item, value.reason, str(value), dealt, budget)
            elif number in masked:
                self._failed(item, masked[number], masked[number], dealt, budget)
            else:
                budget.ok()

    def _failed(self, item: Item, reason: str, detail: str, dealt: Deal, budget: Budget) -> None:
        self.counts[reason] += 1
        if reason == FORGOTTEN:
            return
        dataset, key = self._datasets[item.dataset], self.key(item)
        skip = Skip(dataset=item.dataset, path=str(dataset.path), key=key, reason=reason, mark=mark(dealt.after))
        if self.skips.add(skip):
            log.warning("%s: %s is masked: %s", dataset.path, key, detail)
            if self._quarantine is not None:
                keep(self._quarantine, dataset, item.position, key)
        ref = dataset.ref(item.position)
        budget.failed(f"{dataset.path} shard {ref.shard} row {ref.row} {key}: {reason}")


def _numbers(pack: Packed) -> list[int]:
    """The numbers among a pack's samples of those that are masked, where some are two segments: all but a first answer
    end one."""
    if not any(pack.answers):
        return list(pack.masked_segments)
    return [segment - pack.answers[:segment].count(ANSWERS[0]) for segment in pack.masked_segments]


def mark(cursor: Cursor) -> Mark:
    """How far a run is that stands at a cursor."""
    return Mark(first_epoch=cursor.first_epoch, taken=cursor.taken, dealt=cursor.dealt)
