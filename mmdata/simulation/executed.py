"""What is done and not modelled: order, plan, packs, dealing and index of a synthetic dataset, at its full size."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from mmdata.families import get_family
from mmdata.pack import balance_row, imbalance
from mmdata.shards import index as indexes
from mmdata.shards import table
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.table import ShardEntry
from mmdata.simulation import model
from mmdata.simulation.cluster import Cluster
from mmdata.simulation.model import Reading
from mmdata.stream import deal, state
from mmdata.stream.block import Block
from mmdata.stream.cost import loads
from mmdata.stream.deal import Cursor
from mmdata.stream.extent import extent, planner
from mmdata.stream.loader import AHEAD
from mmdata.stream.order import Order
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.quality import shuffle_quality
from mmdata.stream.spec import StreamSpec
from mmdata.templates import get_template
from mmdata.testing.synthetic import SyntheticDataset, SyntheticLengths, tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """One step as so many ranks take it: `total` and `vision` are the most over the mean of what ranks have to do (1:
    nobody waits), dealt as the stream does and `in_turn`; `micro` is the total where ranks wait after every pack;
    `reading` is what one node asks for."""

    ranks: int
    packs: int
    total: float
    vision: float
    micro: float
    in_turn_total: float
    in_turn_vision: float
    reading: Reading
    seconds: float = field(compare=False)
    """CPU time of dealing it, measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What was found. Equal for equal clusters, but for seconds."""

    blocks: int
    """That were planned,"""
    packs: int
    """with so many packs,"""
    samples: int
    tokens: int
    fill: float
    shards_per_block: float
    """Different shards whose index a block needs."""
    index_bytes: int
    """Of the index of one shard."""
    table_bytes: float
    """Of `shards.arrow` per shard."""
    state_bytes: int
    dealt: tuple[Dealt, ...]
    qualities: tuple[tuple[int, float], ...]
    """Samples that are mixed at once, and the score of the shuffle."""
    plan_seconds: float = field(compare=False)
    """CPU time of planning one block, measured: the median."""
    open_seconds: float = field(compare=False)
    """CPU time from a state to the first pack, measured."""

    @property
    def packs_per_block(self) -> float:
        return self.packs / self.blocks

    @property
    def samples_per_pack(self) -> float:
        return self.samples / self.packs


def execute(told: Cluster, ranks: Sequence[int], mixed: Sequence[int]) -> Executed:
    """Plan as many blocks as a step of the most `ranks` needs, from the middle of the second epoch on, deal it to each
    number of ranks, and judge the shuffle where `mixed` samples are mixed at once."""
    with mock.patch("mmdata.stream.measure.Lengths", SyntheticLengths):
        made, spec, datasets, templates = stream(told)
        blocks: list[Block] = []
        seconds: list[float] = []
        wanted = max(told.at(each).global_batch for each in ranks)
        at = Position(1, made.blocks // 2)
        while sum(len(block.bins) for block in blocks) < wanted:
            began = time.process_time()
            blocks.append(made.block(at))
            seconds.append(time.process_time() - began)
            at = blocks[-1].after
        began = time.process_time()
        again, *_ = stream(told)
        again.block(at).pack(0)
        opened = time.process_time() - began
        saved = state.dump(
            Cursor(position=at, taken=10**9), [extent(datasets)], state.config(spec, made.family, templates)
        )
    firsts = datasets[0].shard_firsts
    shards = [len(np.unique(np.searchsorted(firsts, b.measured.draws.position, side="right"))) for b in blocks]
    tokens = sum(int(block.tokens.sum()) for block in blocks)
    packs = sum(len(block.bins) for block in blocks)
    return Executed(
        blocks=len(blocks),
        packs=packs,
        samples=sum(len(block.bins.items) for block in blocks),
        tokens=tokens,
        fill=tokens / (packs * told.max_length),
        shards_per_block=float(np.mean(shards)),
        index_bytes=index_bytes(min(told.per_shard, told.samples)),
        table_bytes=table_bytes(),
        state_bytes=len(json.dumps(saved)),
        dealt=tuple(dealt(told.at(each), blocks, made.spec) for each in ranks),
        qualities=tuple((each, quality(told, each)) for each in mixed if each <= told.samples),
        plan_seconds=float(np.median(seconds)),
        open_seconds=opened,
    )


def stream(told: Cluster) -> tuple[Planner, StreamSpec, list[Any], list[Any]]:
    """The planner of a synthetic dataset, its spec, the dataset and its template."""
    words = tokenizer()
    family = get_family(told.family, tokenizer=words)
    template = get_template("caption", tokenizer=words, markers=family.markers, around=family.around)
    spec = StreamSpec(
        dataset="/synthetic",
        max_length=told.max_length,
        shuffle=told.shuffle,
        block_samples=told.block_samples,
        seed=told.seed,
        epochs=None,
    )
    data: list[Any] = [SyntheticDataset(told.samples, told.per_shard, text_only=told.text_only)]
    return planner(data, spec, family, [template], extents=[extent(data)], control=None), spec, data, [template]


def dealt(told: Cluster, blocks: Sequence[Block], spec: StreamSpec) -> Dealt:
    """The first step of these blocks."""
    chosen = [(block, number) for block in blocks for number in range(len(block.bins))][: told.global_batch]
    costs = loads([block.costs[number] for block, number in chosen], spec.costs)
    plan = deal.table(costs, told.ranks)
    began = time.process_time()
    balance_row(costs, told.ranks, 0)
    seconds = time.process_time() - began
    turns = np.arange(told.global_batch).reshape(told.packs_per_rank, told.ranks).T
    ours, others = imbalance(costs[:, :2], plan).step, imbalance(costs[:, :2], turns).step
    first = [[number for number in row if number >= 0] for row in plan[: told.local_ranks].tolist()]
    return Dealt(
        ranks=told.ranks,
        packs=len(chosen),
        total=float(ours[0]),
        vision=float(ours[1]),
        micro=model.each_micro(costs[:, 0], plan),
        in_turn_total=float(others[0]),
        in_turn_vision=float(others[1]),
        reading=reading(told, blocks, first),
        seconds=seconds,
    )


def reading(told: Cluster, blocks: Sequence[Block], first: Sequence[Sequence[int]]) -> Reading:
    """What the ranks of a node read in a step, each its own packs, `AHEAD` at a time, on average over the steps of a
    block: `first` are their packs of the first step; those of the others are taken in turn. Whole shards are shared,
    and come once."""
    every = [(block, number) for block in blocks for number in range(len(block.bins))]
    steps = max(1, len(blocks[0].bins) // told.global_batch)
    requests = size = wanted = 0
    shards: set[int] = set()
    for step in range(steps):
        start = step * told.global_batch
        for rank in range(told.local_ranks):
            numbers = first[rank] if not step else range(start + rank, start + told.global_batch, told.ranks)
            packs = [every[number] for number in numbers]
            for at in range(0, len(packs), AHEAD):
                places = [place for pack in packs[at : at + AHEAD] for place in _places(told, *pack)]
                shards |= {shard for shard, _, _ in places}
                wanted += sum(end - begin for _, begin, end in places)
                more, read = model.ranges(places)
                requests, size = requests + more, size + read
    whole_requests, whole_bytes = model.whole([told.shard_bytes] * len(shards))
    return Reading(
        wanted=wanted / steps,
        range_requests=requests / steps,
        range_bytes=size / steps,
        whole_requests=whole_requests / steps,
        whole_bytes=whole_bytes / steps,
    )


def quality(told: Cluster, mixed: int) -> float:
    """The score of a shuffle that mixes so many samples at once (`mmdata.stream.quality`)."""
    firsts = np.append(np.arange(0, told.samples, told.per_shard), told.samples).astype(np.int64)
    shuffle = told.shuffle if told.shuffle in ("shard", "none") else "block"
    order = Order(n=told.samples, shuffle=shuffle, seed=told.seed, block_samples=mixed, shard_firsts=firsts)
    return shuffle_quality(order, epoch=1).score


def index_bytes(rows: int) -> int:
    """Of the index of a shard of captioned pictures, written as a build writes it."""
    return len(indexes.to_bytes(list(_index_rows(rows))))


def table_bytes(shards: int = 1000) -> float:
    """Of `shards.arrow`, per shard, written as a build writes it."""
    entries = [
        ShardEntry(
            unit=number,
            first=number,
            rows=1,
            input_first=number,
            input_rows=1,
            shard=f"shards/{number:06d}.tar",
            shard_bytes=1,
            shard_sha256="00" * 32,
            index=f"index/{number:06d}.arrow",
            index_sha256="00" * 32,
            index_crc32c=0,
            ledger=f"ledger/{number:06d}.parquet",
            ledger_sha256="00" * 32,
        )
        for number in range(shards)
    ]
    return len(table.to_bytes(entries, {})) / shards


def _places(told: Cluster, block: Block, number: int) -> list[tuple[int, int, int]]:
    """Where the samples of a pack lie: shard, first byte, end."""
    members = block.bins.items[block.bins.offsets[number] : block.bins.offsets[number + 1]]
    shards, rows = np.divmod(block.measured.draws.position[members], told.per_shard)
    starts = rows * told.mean_bytes
    return list(zip(shards.tolist(), starts.tolist(), (starts + told.mean_bytes).tolist(), strict=True))


def _index_rows(rows: int) -> Iterator[IndexRow]:
    for row in range(rows):
        at = row * 150_000
        picture: dict[str, Any] = {"kind": "image", "format": "jpeg", "mode": "RGB", "verified": "full"}
        picture |= {"height": 200 + row % 900, "width": 200 + row * 7 % 900}
        parts = (
            Part(name="txt", kind="text", role="caption", train=True, offset=at + 512, size=60, crc32c=row),
            Part(name="jpg", offset=at + 1536, size=148_000, crc32c=row * 2_654_435_761 % 2**32, **picture),
            Part(name="json", kind="meta", offset=at + 149_000, size=300, crc32c=row),
        )
        yield IndexRow(key=f"{row:09d}", row=row, origin="metadata/part-00000.parquet", origin_row=row, parts=parts)
