"""The planner: from an order of samples to packs, block by block, on integers alone."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdata.errors import DataError
from mmdata.families._family import Family
from mmdata.shards.dataset import Dataset
from mmdata.stream import group
from mmdata.stream.block import Block
from mmdata.stream.measure import Measure
from mmdata.stream.pool import Pool
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template
from mmdata.types import Pack

KEPT_BLOCKS = 3
"""Two that readers are in, and one that is planned ahead."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of the next pack. `cursors` say how much each dataset of a weighted mixture has given when the block
    begins; the epoch of such a stream stays 0."""

    epoch: int = 0
    block: int = 0
    pack: int = 0
    cursors: tuple[Any, ...] = ()


class Planner:
    """Plans any block of a stream; a pure function of datasets and spec, whoever asks.

    Without a family every sample is a pack of its own and no text is read. Safe to use from several threads: one plans
    at a time.
    """

    def __init__(
        self, datasets: Sequence[Dataset], spec: StreamSpec, family: Family | None, templates: Sequence[Template]
    ) -> None:
        self.datasets = datasets
        self.spec = spec
        self.family = family
        self.pool = Pool(datasets, shuffle=spec.shuffle, seed=spec.seed, block_samples=spec.block_samples)
        self.blocks = self.pool.blocks
        self.measure = Measure(datasets, spec, family, templates)
        self._planned: OrderedDict[tuple[int, int, tuple[Any, ...]], Block] = OrderedDict()
        self._lock = threading.Lock()

    def block(self, at: Position) -> Block:
        """The block of a position, whichever its pack; the last few are remembered."""
        key = (at.epoch, at.block, at.cursors)
        with self._lock:
            if key not in self._planned:
                self._planned[key] = self._plan(at)
                if len(self._planned) > KEPT_BLOCKS:
                    self._planned.popitem(last=False)
            self._planned.move_to_end(key)
            return self._planned[key]

    def following(self, at: Position) -> Position:
        """Where the block after that of a position begins."""
        return Position(at.epoch, at.block + 1) if at.block + 1 < self.blocks else Position(at.epoch + 1)

    def places(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Block, int, Position]]:
        """Block and number of every pack from `start` to the end of the epoch before `end_epoch`, each with the
        position after it.

        Raises DataError for an epoch without a single pack, which would never end.
        """
        at, given = start, start.block > 0 or start.pack > 0
        while end_epoch is None or at.epoch < end_epoch:
            block, following = self.block(at), self.following(at)
            for number in range(at.pack, len(block.bins)):
                last = number + 1 == len(block.bins)
                yield block, number, following if last else replace(at, pack=number + 1)
                given = True
            if following.epoch > at.epoch:
                if not given:
                    raise self._nothing(block)
                given = False
            at = following

    def packs(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Pack, Position]]:
        """`places` as packs."""
        return ((block.pack(number), after) for block, number, after in self.places(start, end_epoch))

    def at(self, count: int, start: Position) -> Position:
        """The position `count` packs after `start`: replanned forward, whole blocks at a time. The nearer `start` is
        (an anchor), the fewer."""
        at, left, empty = replace(start, pack=0), count + start.pack, 0
        while count and left:
            block = self.block(at)
            if left < len(block.bins):
                break
            empty = 0 if len(block.bins) else empty + 1
            if empty > self.blocks:
                raise self._nothing(block)
            left -= len(block.bins)
            at = self.following(at)
        return replace(at, pack=left)

    def _plan(self, at: Position) -> Block:
        measured = self.measure(self.pool.draws(at.epoch, at.block))
        shares = self.family is not None and self.family.packs
        bins, over = group.group(measured, self.spec, packs=shares)
        bins = group.shuffled(bins, self.spec, at.epoch, at.block)
        return Block(
            epoch=at.epoch,
            number=at.block,
            measured=measured,
            bins=bins,
            costs=group.costs(bins, measured),
            left_out=measured.left_out + Counter(over_capacity=over),
            changed=measured.changed,
            padded=self.spec.packing == "none",
            keyed=self.family is not None,
            datasets=self.datasets,
        )

    def _nothing(self, block: Block) -> DataError:
        reasons = ", ".join(f"{count} {reason}" for reason, count in block.left_out.most_common())
        paths = ", ".join(str(dataset.path) for dataset in self.datasets)
        return DataError("no_packs", f"{paths}: no sample can be packed ({reasons or 'empty'})")
