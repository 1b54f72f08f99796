"""`python -m mmdata.explain STREAM`: what a stream gives: which samples when and where from, how full, how balanced."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmdata import pointer, unread
from mmdata.errors import DataError, RunError, SpecError
from mmdata.stream import command
from mmdata.stream.block import Block
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Deal
from mmdata.stream.order import Order
from mmdata.stream.position import Position
from mmdata.stream.quality import shuffle_quality
from mmdata.stream.report import plan_report
from mmdata.types import Item, MediaPlan, Pack

MOST_BLOCKS = 64
"""Blocks that are planned in search of a sample, or to count the packs before it."""


def overview(stream: StreamingDataset, at: Position | None = None) -> dict[str, Any]:
    """One block (the first) as the ranks of `stream.world` take it, and what goes for the whole stream: fill, balance,
    the mixture up to and with the block, the quality of the shuffle. Every value is JSON."""
    at = Position() if at is None else at
    block = stream.planner.block(at)
    report = plan_report(stream.planner, stream.world.ranks, stream.global_batch, at)
    return {
        "datasets": [
            {"name": source.title, "path": str(dataset.path), "samples": len(dataset)}
            for source, dataset in zip(stream.spec.sources, stream.datasets, strict=True)
        ],
        "epoch": at.epoch,
        "block": at.block,
        "blocks": None if stream.planner.mixer is not None else stream.planner.blocks,
        "packs": report.packs,
        "samples": report.samples,
        "tokens": report.tokens,
        "left_out": report.left_out,
        "plan": report.lines(),
        "mixture": _mixture(stream, block),
        "shuffle": _shuffle(stream),
    }


def step(stream: StreamingDataset, number: int) -> dict[str, Any]:
    """What `stream.world.rank` does in global step `number`: its packs, their samples, and the rows these were made
    from. Raises SpecError for a step after the end."""
    stream.seek(number)
    dealt = []
    for deal in stream.deals():
        if deal.step != number:
            break
        dealt.append(deal)
    if not dealt:
        raise SpecError(f"step: the stream ends before step {number}")
    world = stream.world
    packs = [described(stream, deal.pack) if deal.pack else None for deal in dealt]
    return {"step": number, "rank": world.rank, "ranks": world.ranks, "packs": packs}


def find(stream: StreamingDataset, key: str, epoch: int = 0) -> list[dict[str, Any]]:
    """Where the sample under a key comes in an epoch; of a weighted mixture, in its first `MOST_BLOCKS` blocks. Raises
    SpecError for a key that no dataset has.

    Without weights its place follows from the inverse of the permutation, and only its block is planned; `step` is
    None where more than `MOST_BLOCKS` blocks come before, of which nobody has counted the packs.
    """
    held = {number: data.position(key) for number, data in enumerate(stream.datasets) if key in data}
    if not held:
        raise SpecError(f"key: {', '.join(str(data.path) for data in stream.datasets)} has no {key!r}")
    planner = stream.planner
    if planner.mixer is not None:
        return [place for at in _blocks(stream, Position()) for place in _in_block(stream, at, held)]
    numbers = {
        planner.pool.order.place(index, epoch).block
        for number, position in held.items()
        for index in planner.pool.indices(number, position)
    }
    return [place for number in sorted(numbers) for place in _in_block(stream, Position(epoch, number), held)]


def described(stream: StreamingDataset, pack: Pack) -> dict[str, Any]:
    """A pack and its samples, with the rows that these were made from."""
    return {
        "epoch": pack.epoch,
        "block": pack.block,
        "pack": pack.number,
        "tokens": pack.tokens,
        "cost": pack.cost._asdict(),
        "samples": [_described_item(stream, item) for item in pack.items],
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """An answer of `overview`, `step` or `find` (as `places`) for a person."""
    if "places" in facts:
        alone = len({place["dataset"] for place in facts["places"]}) == 1
        found = [
            f"epoch {place['epoch']}, block {place['block']}: "
            + (
                f"left out ({place['reason']})"
                if place["pack"] is None
                else f"pack {place['pack']}, sample {place['sample']} of it"
            )
            + ("" if place["step"] is None else f", step {place['step']}")
            + ("" if alone else f" [{place['dataset']}]")
            for place in facts["places"]
        ]
        return [f"{facts['key']}", *(f"  {line}" for line in found or [f"not in the first {MOST_BLOCKS} blocks"])]
    if "step" in facts:
        result = [f"step {facts['step']}, rank {facts['rank']} of {facts['ranks']}: {len(facts['packs'])} packs"]
        for pack in facts["packs"]:
            if pack is None:
                result.append("  nothing left for this rank: a dummy that trains nothing")
                continue
            where = f"epoch {pack['epoch']} block {pack['block']} pack {pack['pack']}"
            result.append(f"  {where}: {pack['tokens']:,} tokens, {len(pack['samples'])} samples")
            for each in pack["samples"]:
                media = "; ".join(each["media"]) or "no media"
                row = f"{each['origin']['uri']} row {each['origin']['row']}"
                result.append(
                    f"    {each['key'] or each['position']}  {each['tokens']:,} tokens  {media}  "
                    f"[{each['dataset']} {each['position']}, from {row}]"
                )
        return result
    shown = ", ".join(f"{each['name']} ({each['samples']:,} samples)" for each in facts["datasets"])
    of = "" if facts["blocks"] is None else f" of {facts['blocks']:,}"
    result = [f"stream {shown}", f"block  {facts['block']}{of}, epoch {facts['epoch']}", *facts["plan"]]
    for each in facts["mixture"]:
        wanted = "" if each["wanted"] is None else f" (wanted {each['wanted']:.2%})"
        result.append(
            f"mix    {each['name']}: {each['share']:.2%} of {each['of']}{wanted}, {each['samples']:,} samples"
        )
    for each in facts["shuffle"]:
        result.append(
            f"order  {each['name']}: {each['mode']}, quality {each['score']:.3f} (displacement "
            f"{each['displacement']:.3f}, neighbours {each['neighbours']:.3f}, diversity {each['diversity']:.3f})"
        )
    return result


def _blocks(stream: StreamingDataset, at: Position) -> list[Position]:
    """The first `MOST_BLOCKS` blocks from a position on, or fewer where the stream ends."""
    found: list[Position] = []
    while len(found) < MOST_BLOCKS:
        block = stream.planner.block(at)
        if not len(block.measured):
            break
        found.append(at)
        at = block.after
    return found


def _in_block(stream: StreamingDataset, at: Position, held: dict[int, int]) -> list[dict[str, Any]]:
    """The places of samples (position by number of dataset) in a block."""
    block = stream.planner.block(at)
    draws, bins = block.measured.draws, block.bins
    wanted = np.zeros(len(draws), bool)
    for number, position in held.items():
        wanted |= (draws.dataset == number) & (draws.position == position)
    before = _packs_before(stream, at)
    places: list[dict[str, Any]] = []
    for draw in np.flatnonzero(wanted).tolist():
        where = np.flatnonzero(bins.items == draw)
        pack: int | None = None
        sample: int | None = None
        step_number: int | None = None
        if len(where):
            pack = int(np.searchsorted(bins.offsets, where[0], side="right")) - 1
            sample = int(where[0] - bins.offsets[pack])
            step_number = None if before is None else (before + pack) // stream.global_batch
        dataset = stream.spec.sources[int(draws.dataset[draw])].title
        places.append(
            {
                "dataset": dataset,
                "epoch": at.epoch,
                "block": at.block,
                "pack": pack,
                "sample": sample,
                "step": step_number,
                "reason": None if len(where) else block.measured.reasons.get(draw, "over_capacity"),
            }
        )
    return places


def _packs_before(stream: StreamingDataset, at: Position) -> int | None:
    """Packs of the run (begun with epoch 0) before a block, or None where too many blocks would have to be planned."""
    number = at.epoch * stream.planner.blocks + at.block
    if number > MOST_BLOCKS:
        return None
    count, here = 0, Position()
    while (here.epoch, here.block) < (at.epoch, at.block):
        block = stream.planner.block(here)
        count, here = count + len(block.bins), block.after
    return count


def _described_item(stream: StreamingDataset, item: Item) -> dict[str, Any]:
    origin = stream.datasets[item.dataset].sample(item.position, media=False).origin
    return {
        "key": item.key,
        "dataset": stream.spec.sources[item.dataset].title,
        "position": item.position,
        "epoch": item.epoch,
        "tokens": item.tokens,
        "media": [_described_plan(plan) for plan in item.media],
        "origin": {"uri": origin.uri, "row": origin.row} if origin else {"uri": "unknown", "row": -1},
    }


def _described_plan(plan: MediaPlan) -> str:
    size = f" {plan.size[0]}x{plan.size[1]}" if plan.size else ""
    frames = f" {len(plan.frames)} frames" if plan.frames else ""
    return f"{plan.kind}{size}{frames} -> {'x'.join(map(str, plan.shape))}, {plan.tokens} tokens"


def _mixture(stream: StreamingDataset, block: Block) -> list[dict[str, Any]]:
    """What each dataset of several has given: of a weighted mixture since the stream began, else in the block."""
    sources, mixer = stream.spec.sources, stream.planner.mixer
    if len(sources) < 2:
        return []
    if mixer is not None:
        cursors = block.after.cursors
        given = [(cursor[4], cursor[3]) for cursor in cursors]
        parts = mixer.weights(block.number)
        wanted: list[float | None] = [part / sum(parts) for part in parts]
        of = stream.spec.weigh_by
    else:
        of_each = [block.measured.draws.dataset == number for number in range(len(sources))]
        given = [(int(block.measured.tokens[mine].sum()), int(mine.sum())) for mine in of_each]
        wanted, of = [None] * len(sources), "tokens"
    total = max(1, sum(amount for amount, _ in given))
    return [
        {"name": source.title, "share": amount / total, "wanted": share, "of": of, "samples": samples}
        for source, (amount, samples), share in zip(sources, given, wanted, strict=True)
    ]


def _shuffle(stream: StreamingDataset) -> list[dict[str, Any]]:
    """The quality of the order of the pool, or of each dataset of a mixture."""
    mixer = stream.planner.mixer
    orders: list[tuple[str, Order]] = (
        [(part.name, part.order) for part in mixer.parts]
        if mixer is not None
        else [("all" if len(stream.datasets) > 1 else stream.spec.sources[0].title, stream.planner.pool.order)]
    )
    found = []
    for name, order in orders:
        quality = shuffle_quality(order)
        found.append(
            {
                "name": name,
                "mode": order.shuffle,
                "score": quality.score,
                "displacement": quality.displacement,
                "neighbours": quality.neighbours,
                "diversity": quality.diversity,
            }
        )
    return found


@unread.stops
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.explain", description=__doc__.split(": ", 1)[1])
    command.add_arguments(parser)
    parser.add_argument("--step", type=int, help="the samples of this global step on --rank, and their source rows")
    parser.add_argument("--key", help="where this sample comes in --epoch")
    parser.add_argument("--block", type=int, help="what this block of --epoch amounts to (default: the first)")
    parser.add_argument("--epoch", type=int, default=0, help="pass over the data, from 0 (default: 0)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="render the first pack of --step on --rank as a page")
    options = parser.parse_args(arguments)
    try:
        facts = _answer(command.opened(options), options)
    except (SpecError, DataError, RunError, OSError) as error:
        print(f"mmdata.explain: {pointer.told(error)}", file=sys.stderr)
        return 2
    print(json.dumps(facts, indent=2) if options.json else "\n".join(lines(facts)))
    return 0


def _answer(stream: StreamingDataset, options: argparse.Namespace) -> dict[str, Any]:
    if options.html is not None:
        from mmdata.explain_page.page import render

        page = render(stream, [first_pack(stream, options.step or 0)])
        try:
            options.html.write_bytes(page)
        except OSError as error:
            raise RunError(f"{options.html}: cannot write: {error.strerror}") from error
    if options.key is not None:
        return {"key": options.key, "places": find(stream, options.key, options.epoch)}
    if options.step is not None or options.html is not None:
        return step(stream, options.step or 0)
    at = Position(options.epoch, options.block or 0)
    if stream.planner.mixer is not None:
        if options.epoch:
            raise SpecError("epoch: a weighted mixture has no epochs; give --block")
        found = Position()
        for _ in range(at.block):
            found = stream.planner.block(found).after
        at = found
    elif at.block >= stream.planner.blocks:
        raise SpecError(f"block: an epoch has {stream.planner.blocks} blocks, from 0")
    return overview(stream, at)


def first_pack(stream: StreamingDataset, number: int) -> Deal:
    """The first deal of a step for `stream.world.rank`."""
    stream.seek(number)
    for deal in stream.deals():
        if deal.step == number:
            return deal
        break
    raise SpecError(f"step: the stream ends before step {number}")


if __name__ == "__main__":
    sys.exit(main())
