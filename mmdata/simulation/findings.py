"""What a simulation tells: rows of a table, and curves, each said to be executed, measured or computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmdata.shards.prefetch import WHOLE_SHARE
from mmdata.simulation import model
from mmdata.simulation.cluster import Cluster
from mmdata.simulation.curves import Chart, Line
from mmdata.simulation.executed import Dealt, Executed
from mmdata.stream.ahead import share

Kind = Literal["executed", "measured", "computed"]
SIZES = (10**6, 10**7, 10**8, 10**9, 10**10)
"""Samples at which the index is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A figure. `executed`: the real planner said so, at full size; `measured`: seconds on the machine that simulates;
    `computed`: a formula of docs/scale.md of the other figures and what was told."""

    about: str
    name: str
    value: float
    unit: str
    kind: Kind


def findings(told: Cluster, found: Executed) -> list[Finding]:
    """All figures of a cluster, whose own number of ranks is among those that were dealt."""
    mine = dealt_at(told, found)
    plan, resume = plan_seconds(told, found, mine), resume_seconds(told, found)
    best = model.best_interval(told)
    kept = min(1.0, told.cache_bytes / told.dataset_bytes)
    by_range, by_whole = step_reading(told, mine)
    whole = reads_whole(told)
    ours = by_whole if whole else by_range
    rows: list[tuple[str, str, float, str, Kind]] = [
        ("data", "bytes", told.dataset_bytes, "B", "computed"),
        ("data", "shards", told.shards, "", "computed"),
        ("index", "of a shard", found.index_bytes, "B", "executed"),
        ("index", "of all shards", found.index_bytes * told.shards, "B", "computed"),
        ("index", "shards.arrow, memory-mapped", found.table_bytes * told.shards, "B", "computed"),
        ("index", "state of the stream", found.state_bytes, "B", "executed"),
        ("plan", "blocks planned", found.blocks, "", "executed"),
        ("plan", "samples in a pack", found.samples_per_pack, "", "executed"),
        ("plan", "fill", 100 * found.fill, "%", "executed"),
        ("plan", "blocks of a step", mine.packs / found.packs_per_block, "", "executed"),
        ("plan", "CPU of a block", found.plan_seconds, "s", "measured"),
        ("plan", "CPU of dealing a step", mine.seconds, "s", "measured"),
        ("plan", "CPU of a step, in every process", plan, "s", "computed"),
        ("plan", "share of the step's seconds", 100 * plan / told.step_seconds, "%", "computed"),
        ("plan", "indexes that a block needs", found.shards_per_block, "", "executed"),
        (
            "plan",
            "index bytes a step, of a node",
            found.shards_per_block * found.index_bytes * mine.packs / found.packs_per_block,
            "B",
            "computed",
        ),
        ("reads", "wanted by a node in a step", mine.reading.wanted, "B", "executed"),
        (
            "reads",
            f"the stream reads {'whole shards' if whole else 'ranges'}: bytes over wanted",
            ours.amplification,
            "x",
            "computed",
        ),
        ("reads", "share of the step's seconds", 100 * ours.seconds / told.step_seconds, "%", "computed"),
        ("reads", "by ranges: requests per second and rank", by_range.rate, "/s", "computed"),
        ("reads", "by ranges: bytes read over wanted", by_range.amplification, "x", "computed"),
        ("reads", "by ranges: seconds of a step", by_range.seconds, "s", "computed"),
        ("reads", "by ranges: price of a day, all nodes", by_range.price, "", "computed"),
        ("reads", "whole shards: requests per second and rank", by_whole.rate, "/s", "computed"),
        ("reads", "whole shards: bytes read over wanted", by_whole.amplification, "x", "computed"),
        ("reads", "whole shards: seconds of a step", by_whole.seconds, "s", "computed"),
        ("reads", "whole shards: price of a day, all nodes", by_whole.price, "", "computed"),
        ("cache", "share of the dataset", 100 * kept, "%", "computed"),
        ("cache", "hits of later epochs", 100 * model.hit_rate(kept), "%", "computed"),
        ("cache", "bytes of two blocks' shards", 2 * found.shards_per_block * told.shard_bytes, "B", "computed"),
        ("balance", "most over mean, total", mine.total, "x", "executed"),
        ("balance", "most over mean, vision", mine.vision, "x", "executed"),
        ("balance", "where ranks wait after every pack", mine.micro, "x", "executed"),
        ("balance", "dealt in turn, total", mine.in_turn_total, "x", "executed"),
        ("balance", "dealt in turn, vision", mine.in_turn_vision, "x", "executed"),
        ("failures", "between failures", model.mean_seconds(told), "s", "computed"),
        ("failures", "from a state to the first pack", found.open_seconds, "s", "measured"),
        ("failures", "resume of the stream", resume, "s", "computed"),
        ("failures", "the same without anchors, end of an epoch", replanned(told, found), "s", "computed"),
        ("failures", "best interval of checkpoints", best, "s", "computed"),
        ("failures", "kept as training at that", 100 * model.goodput(best, resume, told), "%", "computed"),
    ]
    return [Finding(about=a, name=n, value=float(v), unit=u, kind=k) for a, n, v, u, k in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReading:
    """What reading a step comes to: requests per second of each rank, bytes read over bytes wanted, seconds that a node
    reads, and the price of a day."""

    rate: float
    amplification: float
    seconds: float
    price: float


def step_reading(told: Cluster, mine: Dealt) -> tuple[StepReading, StepReading]:
    """By ranges and by whole shards, the cache being empty."""
    reading, local = mine.reading, told.local_ranks
    made = []
    for requests, size in (
        (reading.range_requests, reading.range_bytes),
        (reading.whole_requests, reading.whole_bytes),
    ):
        made.append(
            StepReading(
                rate=requests / local / told.step_seconds,
                amplification=size / max(1, reading.wanted),
                seconds=model.read_seconds(requests, size, told, sharing=local),
                price=requests * told.nodes * told.request_price * 86400 / told.step_seconds,
            )
        )
    return made[0], made[1]


def reads_whole(told: Cluster) -> bool:
    """Whether read-ahead downloads whole shards on so many ranks (`mmdata.stream.ahead.share`), where its cache has
    room."""
    return share(told.shuffle, told.ranks) >= WHOLE_SHARE


def dealt_at(told: Cluster, found: Executed) -> Dealt:
    """What was dealt to the cluster's own number of ranks."""
    return next(each for each in found.dealt if each.ranks == told.ranks)


def plan_seconds(told: Cluster, found: Executed, mine: Dealt) -> float:
    """CPU seconds that every process plans for a step: its blocks, and dealing it."""
    return found.plan_seconds * told.at(mine.ranks).global_batch / found.packs_per_block + mine.seconds


def resume_seconds(told: Cluster, found: Executed) -> float:
    """From a state to the first pack, its bytes among it."""
    size = found.samples_per_pack * told.mean_bytes
    return found.open_seconds + model.read_seconds(found.samples_per_pack, size, told, sharing=1)


def replanned(told: Cluster, found: Executed) -> float:
    """Seconds to find a step at the end of an epoch without anchors: every block before it is planned."""
    return found.plan_seconds * max(1, told.samples // told.block_samples)


def charts(told: Cluster, found: Executed) -> list[Chart]:
    """The curves."""
    ranks = [(each.ranks, each) for each in found.dealt]

    def over(value: float) -> float:
        return max(value, 1e-9)

    mean_packs = found.packs_per_block
    quality = tuple((mixed * told.mean_bytes, score) for mixed, score in found.qualities)
    shares = [n / 20 for n in range(21)]
    nodes = [told.at(r * told.ranks_per_node) for r in (1, 4, 16, 64, 256, 1024, 2048)]
    resume = resume_seconds(told, found)
    return [
        Chart(
            name="index",
            title="What a dataset keeps beside its bytes",
            x="samples",
            y="bytes",
            lines=(
                Line(
                    name="all indexes",
                    points=tuple((n, n / told.per_shard * found.index_bytes) for n in SIZES),
                    computed=True,
                ),
                Line(
                    name="shards.arrow (mapped)",
                    points=tuple((n, n / told.per_shard * found.table_bytes) for n in SIZES),
                    computed=True,
                ),
                Line(name="state of a stream", points=tuple((n, float(found.state_bytes)) for n in SIZES)),
            ),
        ),
        Chart(
            name="planning",
            title="Planning one step, in every process",
            x="ranks",
            y="CPU seconds",
            lines=(
                Line(name="whole step", points=tuple((r, over(plan_seconds(told, found, d))) for r, d in ranks)),
                Line(name="dealing alone", points=tuple((r, over(d.seconds)) for r, d in ranks)),
                Line(
                    name="blocks alone",
                    points=tuple((r, found.plan_seconds * d.packs / mean_packs) for r, d in ranks),
                ),
                Line(name="the step itself", points=tuple((r, told.step_seconds) for r, _ in ranks), computed=True),
            ),
        ),
        Chart(
            name="balance",
            title="Waiting for the slowest rank",
            x="ranks",
            y="most over mean",
            log_y=False,
            lines=(
                Line(name="total, dealt", points=tuple((r, d.total) for r, d in ranks)),
                Line(name="vision, dealt", points=tuple((r, d.vision) for r, d in ranks)),
                Line(name="total, in turn", points=tuple((r, d.in_turn_total) for r, d in ranks)),
                Line(name="vision, in turn", points=tuple((r, d.in_turn_vision) for r, d in ranks)),
            ),
        ),
        Chart(
            name="amplification",
            title="Bytes read over bytes wanted, by a node",
            x="ranks",
            y="times",
            lines=(
                Line(
                    name="by ranges",
                    points=tuple((r, over(d.reading.range_bytes / max(1, d.reading.wanted))) for r, d in ranks),
                ),
                Line(
                    name="whole shards",
                    points=tuple((r, over(d.reading.whole_bytes / max(1, d.reading.wanted))) for r, d in ranks),
                ),
                Line(
                    name="as the stream reads",
                    points=tuple(
                        (r, over(step_reading(told.at(r), d)[reads_whole(told.at(r))].amplification)) for r, d in ranks
                    ),
                ),
            ),
        ),
        Chart(
            name="requests",
            title="Requests of each rank",
            x="ranks",
            y="per second",
            lines=(
                Line(name="by ranges", points=tuple((r, over(step_reading(told.at(r), d)[0].rate)) for r, d in ranks)),
                Line(
                    name="whole shards",
                    points=tuple((r, over(step_reading(told.at(r), d)[1].rate)) for r, d in ranks),
                ),
            ),
        ),
        Chart(
            name="quality",
            title="What must be at hand against how well it is mixed",
            x="bytes of the samples that are mixed at once",
            y="score of the shuffle, 0 to 1",
            log_y=False,
            lines=(Line(name=told.shuffle if told.shuffle == "shard" else "block", points=quality),),
        ),
        Chart(
            name="cache",
            title="Hits of later epochs",
            x="share of the dataset that a node keeps",
            y="share of shards",
            log_x=False,
            log_y=False,
            lines=(Line(name="order of chance", points=tuple((c, model.hit_rate(c)) for c in shares), computed=True),),
        ),
        Chart(
            name="goodput",
            title="Time that is kept as training",
            x="ranks",
            y="share",
            log_y=False,
            lines=(
                Line(
                    name="best interval",
                    points=tuple((c.ranks, model.goodput(model.best_interval(c), resume, c)) for c in nodes),
                    computed=True,
                ),
                Line(
                    name="every hour",
                    points=tuple((c.ranks, model.goodput(3600.0, resume, c)) for c in nodes),
                    computed=True,
                ),
                Line(
                    name="hourly, no anchors",
                    points=tuple((c.ranks, model.goodput(3600.0, replanned(told, found), c)) for c in nodes),
                    computed=True,
                ),
            ),
        ),
    ]


def written(value: float, unit: str) -> str:
    """A figure for a person.

    >>> written(1.5e14, "B"), written(0.02, "s"), written(7200, "s"), written(1.02345, "x")
    ('150 TB', '0.02 s', '2.00 h', '1.023 x')
    """
    if not math.isfinite(value):
        return "-"
    if unit == "B":
        for size, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} B"
    if unit == "s" and value >= 3600:
        return f"{value / 3600:.2f} h"
    if unit == "x":
        return f"{value:.3f} x"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {unit}".strip()
