"""The planner: from an order of samples to packs, block by block, on integers alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError, SpecError
from mmdata.families._family import Family
from mmdata.shards.dataset import Dataset
from mmdata.stream import group
from mmdata.stream.block import Block
from mmdata.stream.cost import loads
from mmdata.stream.draws import Draws
from mmdata.stream.measure import Measure, Measured, joined
from mmdata.stream.mix import Mixer
from mmdata.stream.pool import Pool
from mmdata.stream.position import Position
from mmdata.stream.sources import Held
from mmdata.stream.spec import StreamSpec
from mmdata.stream.staged import stage_of, staged
from mmdata.templates import Template
from mmdata.types import Pack

KEPT_BLOCKS = 3
"""Two that readers are in, and one that is planned ahead."""


class Planner:
    """Plans any block of a stream; a pure function of datasets and spec, whoever asks.

    Without a family every sample is a pack of its own and no text is read. `held` is how much of each dataset belongs
    to the stream, by default all. Safe to use from several threads: one plans
    at a time.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: StreamSpec,
        family: Family | None,
        templates: Sequence[Template],
        mixer: Mixer | None = None,
        held: Sequence[Held] | None = None,
    ) -> None:
        self.datasets = datasets
        self.spec = spec
        self.family = family
        self.mixer = mixer
        self.pool = Pool(
            datasets if held is None else held,
            shuffle=spec.shuffle,
            seed=spec.seed,
            block_samples=spec.block_samples,
            repeats=[each.repeat for each in spec.sources],
        )
        if family is None and spec.views:
            raise SpecError("views: without a family nothing is planned; leave them out")
        gone = [part.forgotten for part in held or ()]
        families = [None] if family is None else staged(family, spec.views)
        self.measures = [Measure(datasets, spec, each, templates, forgotten=gone) for each in families]
        self._planned: OrderedDict[tuple[int, int, tuple[Any, ...]], Block] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def blocks(self) -> int:
        """Blocks of an epoch of all datasets, each taken once."""
        return self.pool.blocks

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
        """Where the block after that of a position begins; of a mixture it is planned to know."""
        if self.mixer is not None:
            return self.block(at).after
        return Position(at.epoch, at.block + 1) if at.block + 1 < self.blocks else Position(at.epoch + 1)

    def reached(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Position, Block]]:
        """Every block from `start` to the end of the epoch before `end_epoch`, with the position of its first pack that
        is to be taken. A weighted mixture ends where its datasets are spent.

        Raises DataError for an epoch without a single pack, or as many blocks of a mixture, which would never end.
        """
        at, given, empty = start, start.block > 0 or start.pack > 0, 0
        while not self._ended(at, end_epoch):
            block = self.block(at)
            if at.pack < len(block.bins):
                yield at, block
                given = True
            empty = 0 if len(block.bins) else empty + bool(len(block.measured))
            if (block.after.epoch > at.epoch and not given) or empty >= 2 * self.blocks:  # see `at`
                raise self._nothing(block)
            given = given and block.after.epoch == at.epoch
            at = block.after

    def places(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Block, int, Position]]:
        """Block and number of every pack that is `reached`, each with the position after it."""
        for at, block in self.reached(start, end_epoch):
            last = len(block.bins) - 1
            for number in range(at.pack, last):
                yield block, number, Position(at.epoch, at.block, number + 1, at.cursors)
            yield block, last, block.after

    def packs(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Pack, Position]]:
        """`places` as packs."""
        return ((block.pack(number), after) for block, number, after in self.places(start, end_epoch))

    def at(self, count: int, start: Position, *, end: int | None = None, beyond: int = 0) -> Position:
        """The position `count` packs after `start`: replanned forward, whole blocks at a time. The nearer `start` is
        (an anchor), the fewer. Where more than `beyond` packs are left at the beginning of epoch `end`, a stream that
        ends there has none to plan: the rest is only counted, as packs of its first block."""
        at, left, empty = replace(start, pack=0), count + start.pack, 0
        while count and left and not self._ended(at, end if left > beyond else None):
            block = self.block(at)
            if left < len(block.bins):
                break
            empty = 0 if len(block.bins) else empty + bool(len(block.measured))
            if empty >= 2 * self.blocks:  # So many hold a whole epoch: the last blocks of one may come before the next.
                raise self._nothing(block)
            left -= len(block.bins)
            at = block.after
        return replace(at, pack=left)

    def _plan(self, at: Position) -> Block:
        measured, after = self._measured(at)
        shares = self.family is not None and self.family.packs
        bins, over = group.group(measured, self.spec, packs=shares)
        bins, costs = group.ordered(bins, measured, self.spec, at.epoch, at.block)
        return Block(
            epoch=at.epoch,
            number=at.block,
            measured=measured,
            bins=bins,
            costs=costs,
            over=over,
            after=after,
            padded=self.spec.packing == "none",
            keyed=self.family is not None,
            datasets=self.datasets,
        )

    def _measured(self, at: Position) -> tuple[Measured, Position]:
        """The samples of a block, and where the next one begins."""
        measure = self.measures[stage_of(self.spec.views, self._before(at))]
        if self.mixer is None:
            return measure(self.pool.draws(at.epoch, at.block)), self.following(at)
        parts: list[Measured] = []

        def amounts(draws: Draws) -> npt.NDArray[np.int64]:
            parts.append(measure(draws))
            return self._amounts(parts[-1])

        formed = self.mixer.form(at.cursors or self.mixer.first(), at.block, amounts)
        measured = joined(parts).take(formed.chosen) if parts else measure(formed.draws)
        return measured, Position(at.epoch, at.block + 1, 0, tuple(formed.after))

    def _before(self, at: Position) -> int:
        """Samples of the stream before a block; of pooled datasets as if all blocks of an epoch were alike."""
        if self.mixer is not None:
            return at.block * self.spec.block_samples
        return at.epoch * self.pool.order.n + at.block * self.pool.order.n // self.blocks

    def _amounts(self, measured: Measured) -> npt.NDArray[np.int64]:
        """What the samples count for in a mixture: tokens, or thousandths of cost."""
        if self.mixer is None or self.mixer.weigh_by != "cost":
            return measured.tokens
        counts = [measured.tokens, measured.tokens**2, measured.patches, measured.mel_frames]
        return np.rint(loads(np.stack(counts, axis=1), self.spec.costs)[:, 0] * 1000).astype(np.int64)

    def _ended(self, at: Position, end_epoch: int | None) -> bool:
        if self.mixer is not None:
            return self.mixer.spent(at.cursors or self.mixer.first(), at.block)
        return end_epoch is not None and at.epoch >= end_epoch

    def _nothing(self, block: Block) -> DataError:
        reasons = ", ".join(f"{count} {reason}" for reason, count in block.left_out.most_common())
        paths = ", ".join(str(dataset.path) for dataset in self.datasets)
        return DataError("no_packs", f"{paths}: no sample can be packed ({reasons or 'empty'})")
