"""What a run does about samples that cannot be read: count, note, keep their bytes, stop when they are too many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmdata.errors import Budget, DataError
from mmdata.shards.dataset import Dataset
from mmdata.stream.deal import Cursor, Deal
from mmdata.stream.quarantine import keep
from mmdata.stream.skips import Mark, Skip, SkipLog
from mmdata.stream.spec import StreamSpec
from mmdata.types import Item, Packed

log = logging.getLogger(__name__)


class BadSamples:
    """The samples of a stream that were masked or skipped: `counts` by reason, as this process took them."""

    def __init__(self, datasets: Sequence[Dataset], spec: StreamSpec, skips: SkipLog, quarantine: Path | None) -> None:
        self.counts: Counter[str] = Counter()
        self.skips = skips
        self._datasets = datasets
        self._spec = spec
        self._quarantine = quarantine
        self._budgets: dict[int, Budget] = {}

    def begin(self) -> None:
        """Count anew for the budgets: a pass begins."""
        self._budgets.clear()

    def known(self, item: Item) -> str | None:
        """Why the run already masks this sample, if it does."""
        if not len(self.skips):
            return None
        return self.skips.reason(item.dataset, self.key(item))

    def key(self, item: Item) -> str:
        """The key of a sample; plans of streams without a family do not carry it."""
        return item.key or self._datasets[item.dataset].keys_at([item.position])[0]  # type: ignore[arg-type]

    def account(self, dealt: Deal, value: object) -> None:
        """Note what could not be read of a deal: of a Packed its `masked`, else a DataError in place of the sample.

        Raises RunError that names shard, row, key and cause of the last failure once a dataset's budget is spent.
        """
        if dealt.pack is None:
            return
        failed = list(value.masked) if isinstance(value, Packed) else []
        for item in dealt.pack.items:
            budget = self._budgets.setdefault(item.dataset, Budget(**self._spec.failures.model_dump()))
            if isinstance(value, DataError):
                self._failed(item, value.reason, str(value), dealt, budget)
            elif failed and failed[0][0] == item.key:  # in the order of the items
                self._failed(item, failed[0][1], failed.pop(0)[1], dealt, budget)
            else:
                budget.ok()
        assert not failed, f"{failed} are masked and not of {dealt.pack}"

    def _failed(self, item: Item, reason: str, detail: str, dealt: Deal, budget: Budget) -> None:
        dataset, key = self._datasets[item.dataset], self.key(item)
        self.counts[reason] += 1
        skip = Skip(dataset=item.dataset, path=str(dataset.path), key=key, reason=reason, mark=mark(dealt.after))
        if self.skips.add(skip):
            log.warning("%s: %s is masked: %s", dataset.path, key, detail)
            if self._quarantine is not None:
                keep(self._quarantine, dataset, item.position, key)
        ref = dataset.ref(item.position)
        budget.failed(f"{dataset.path} shard {ref.shard} row {ref.row} {key}: {reason}")


def mark(cursor: Cursor) -> Mark:
    """How far a run is that stands at a cursor."""
    return Mark(first_epoch=cursor.first_epoch, taken=cursor.taken, dealt=cursor.dealt)
