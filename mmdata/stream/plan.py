"""The planner: from an order of samples to packs, block by block, on integers alone."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmdata import rng
from mmdata.errors import DataError
from mmdata.families._family import Family, media_length, plan_media, views
from mmdata.pack import pack_best_fit, packing_efficiency
from mmdata.shards.dataset import Dataset
from mmdata.stream.materialized import check_readable
from mmdata.stream.order import order
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Encoded, Template, encode
from mmdata.types import Item, Pack, Sample
from mmdata.views.augment import drawn

CHUNK = 1000
"""Samples whose texts are in memory at once while a block is planned."""
KEPT_BLOCKS = 2


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of the next pack."""

    epoch: int = 0
    block: int = 0
    pack: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A planned block: its packs in their order, and the samples it had to leave out, by reason."""

    packs: tuple[Pack, ...]
    left_out: Counter[str]

    def fill(self, capacity: int) -> float:
        """Share of all tokens of its packs that are samples' tokens, 0 to 1."""
        lengths = [pack.tokens for pack in self.packs]
        return packing_efficiency([[i] for i in range(len(lengths))], lengths, capacity)


class Planner:
    """Plans any block of any epoch of one dataset; a pure function of dataset and spec, whoever asks.

    Without a family every sample is a pack of its own and no text is read.
    """

    def __init__(self, dataset: Dataset, spec: StreamSpec, family: Family | None, template: Template) -> None:
        self.dataset = dataset
        self.spec = spec
        self.family = family
        self.template = template
        self.blocks = max(1, len(dataset) // spec.block_samples)
        self._planned: OrderedDict[tuple[int, int], Block] = OrderedDict()

    def block(self, epoch: int, number: int) -> Block:
        """Block `number`, 0 <= number < blocks, of an epoch; the last few are remembered."""
        at = (epoch, number)
        if at not in self._planned:
            self._planned[at] = self._plan(epoch, number)
            if len(self._planned) > KEPT_BLOCKS:
                self._planned.popitem(last=False)
        self._planned.move_to_end(at)
        return self._planned[at]

    def packs(self, start: Position, end_epoch: int | None) -> Iterator[tuple[Pack, Position]]:
        """Every pack from `start` to the end of the epoch before `end_epoch`, each with the position after it.

        Raises DataError for an epoch without a single pack, which would never end.
        """
        epoch, number, first, given = start.epoch, start.block, start.pack, start.block > 0 or start.pack > 0
        while end_epoch is None or epoch < end_epoch:
            block = self.block(epoch, number)
            following = Position(epoch, number + 1) if number + 1 < self.blocks else Position(epoch + 1)
            for at in range(first, len(block.packs)):
                last = at + 1 == len(block.packs)
                yield block.packs[at], following if last else Position(epoch, number, at + 1)
                given = True
            if following.epoch > epoch:
                if not given:
                    reasons = ", ".join(f"{count} {reason}" for reason, count in block.left_out.most_common())
                    raise DataError("no_packs", f"{self.dataset.path}: no sample can be packed ({reasons or 'empty'})")
                given = False
            epoch, number, first = following.epoch, following.block, 0

    def at(self, count: int, start: Position) -> Position:
        """The position `count` packs after `start`: replanned forward, whole blocks at a time."""
        epoch, number, left = start.epoch, start.block, count + start.pack
        empty = 0
        while count and left and left >= (size := len(self.block(epoch, number).packs)):
            empty = 0 if size else empty + 1
            if empty > self.blocks:
                raise DataError("no_packs", f"{self.dataset.path}: no sample can be packed")
            left -= size
            epoch, number = (epoch, number + 1) if number + 1 < self.blocks else (epoch + 1, 0)
        return Position(epoch, number, left)

    def _plan(self, epoch: int, number: int) -> Block:
        n, spec = len(self.dataset), self.spec
        places = np.arange(number * n // self.blocks, (number + 1) * n // self.blocks)
        positions = order(places, n, shuffle=spec.shuffle, seed=spec.seed, epoch=epoch).tolist()
        left_out: Counter[str] = Counter()
        items: list[Item] = []
        for at in range(0, len(positions), CHUNK):
            for planned in self._items(positions[at : at + CHUNK], epoch):
                if isinstance(planned, Item):
                    items.append(planned)
                else:
                    left_out[planned.reason] += 1
        if self.family is None or not self.family.packs or spec.packing == "none":
            bins = [[i] for i in range(len(items))]
        else:
            assert spec.max_length is not None, spec
            bins = [sorted(members) for members in pack_best_fit([item.tokens for item in items], spec.max_length)]
            if spec.shuffle == "none":
                bins.sort()
            else:
                shuffled = rng.generator("packs", spec.seed, epoch, number).permutation(len(bins))
                bins = [bins[i] for i in shuffled]
        packs = [
            Pack(epoch=epoch, block=number, number=i, items=tuple(items[member] for member in members))
            for i, members in enumerate(bins)
        ]
        return Block(packs=tuple(packs), left_out=left_out)

    def _items(self, positions: list[int], epoch: int) -> Iterator[Item | DataError]:
        if self.family is None:
            for position in positions:
                yield Item(position=position, key="", tokens=1)
            return
        samples = [
            drawn(self.dataset.sample(position, media=False), self.spec.augment, seed=self.spec.seed, epoch=epoch)
            for position in positions
        ]
        encoded = encode(samples, self.family.tokenizer, self.template)
        for position, sample, tokens in zip(positions, samples, encoded, strict=True):
            yield tokens if isinstance(tokens, DataError) else self._item(position, sample, tokens, epoch)

    def _item(self, position: int, sample: Sample, encoded: Encoded, epoch: int) -> Item | DataError:
        assert self.family is not None, sample

        def draw(medium: int) -> np.random.Generator:
            return rng.generator("view", self.spec.seed, epoch, sample.key, medium)

        try:
            plans = plan_media(self.family, encoded.media, draw)
            check_readable(encoded.media, views(self.family, encoded.media), plans, self.spec)
        except DataError as error:
            return error
        tokens = len(encoded.ids) - len(plans) + sum(media_length(self.family, plan) for plan in plans)
        if self.spec.max_length is not None and tokens > self.spec.max_length:
            return DataError("overlong", f"{sample.key}: {tokens} tokens, {self.spec.max_length} fit")
        return Item(position=position, key=sample.key, tokens=tokens, media=plans)
