"""What machines do, as formulas: requests and seconds of reading, hits of a cache, failures and what they cost.

Every function is checked against a measurement or a process that is simulated event by event, in
tests/simulation/test_model.py, with the tolerance that docs/scale.md states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmdata import rng
from mmdata.shards.prefetch import GAP_BYTES, READ_BYTES
from mmdata.shards.ranges import Range, coalesce
from mmdata.shards.transport import PIECE_BYTES
from mmdata.simulation.cluster import Cluster
from mmdata.stream.ahead import THREADS

Places = Sequence[tuple[int, int, int]]
"""(shard, first byte, end) of what is read together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a node asks its storage for in a step, on average over the steps of a block, by ranges or by whole shards
    (each once a block); `wanted` are the samples' own bytes."""

    wanted: float
    range_requests: float
    range_bytes: float
    whole_requests: float
    whole_bytes: float


def ranges(places: Places, *, gap: int = GAP_BYTES, limit: int = READ_BYTES) -> tuple[int, int]:
    """Requests and bytes that read-ahead makes of what it is told of at once (`mmdata.shards.ranges.coalesce`).

    >>> ranges([(0, 0, 10), (0, 30, 40), (1, 0, 10)], gap=20)
    (2, 50)
    """
    by_shard: dict[int, list[Range]] = {}
    for shard, start, end in places:
        by_shard.setdefault(shard, []).append(Range(start, end))
    reads = [read for each in by_shard.values() for read, _ in coalesce(each, gap=gap, limit=limit)]
    return len(reads), sum(read.end - read.start for read in reads)


def whole(shard_bytes: Sequence[int]) -> tuple[int, int]:
    """Requests and bytes of downloading whole shards: pieces of `PIECE_BYTES` at most."""
    return sum(-(-size // PIECE_BYTES) for size in shard_bytes), sum(shard_bytes)


def read_seconds(requests: float, size: float, told: Cluster, *, sharing: int) -> float:
    """Seconds until `sharing` processes of a node have read so much together, each with `THREADS` requests at a time:
    each request waits its latency, and bytes come as fast as connections, or the node's network, let them."""
    connections = THREADS * sharing
    wide = min(connections * told.bandwidth, told.node_bandwidth)
    return math.ceil(requests / connections) * told.latency + size / wide


def hit_rate(share: float) -> float:
    """Hits of a later epoch where a cache holds this share of all shards, each epoch goes through all of them once in
    an order of chance of its own, and the least recently used go first: c + (1 - c) ln(1 - c).

    A shard at x of one epoch and y of the next (shares, uniform) has seen 1 - x + x*y of all shards since, those of
    both parts counted once; it is still there where that is at most c, so where x * (1 - y) >= 1 - c.

    >>> hit_rate(0.0), round(hit_rate(0.5), 3), hit_rate(1.0)
    (0.0, 0.153, 1.0)
    """
    return 1.0 if share >= 1 else share + (1 - share) * math.log(1 - share)


def best_interval(told: Cluster) -> float:
    """Seconds between checkpoints that waste least (Young, 1974): sqrt(2 * checkpoint * mean time between failures)."""
    return math.sqrt(2 * told.checkpoint_seconds * mean_seconds(told))


def mean_seconds(told: Cluster) -> float:
    """Seconds between failures of any node."""
    return told.node_hours * 3600 / told.nodes


def goodput(interval: float, resume_seconds: float, told: Cluster) -> float:
    """Share of the time that is kept as training, with a checkpoint after each `interval` seconds of it, and R =
    `restart_seconds` + `resume_seconds` after each failure: interval / (M e^(R/M) (e^((interval + checkpoint)/M) - 1))
    for failures without memory, M apart, which may come at any moment, also while restarting (Daly, 2006, eq. 20)."""
    mean, back = mean_seconds(told), told.restart_seconds + resume_seconds
    exponent = (interval + told.checkpoint_seconds) / mean
    if exponent + back / mean > 700:
        return 0.0
    return interval / (mean * math.exp(back / mean) * math.expm1(exponent))


def simulated_goodput(
    interval: float, resume_seconds: float, told: Cluster, *, intervals: int = 20_000, seed: int = 0
) -> float:
    """The same, failure by failure: so many intervals are trained; one that a failure meets is trained again."""
    mean, back = mean_seconds(told), told.restart_seconds + resume_seconds
    draw = rng.generator("goodput", seed)
    clock, done, need = 0.0, 0, interval + told.checkpoint_seconds
    fails = float(draw.exponential(mean))
    while done < intervals:
        if fails >= clock + need:
            clock, done = clock + need, done + 1
            continue
        clock = fails  # what was trained since the checkpoint is lost; then back, unless it fails again
        fails = clock + float(draw.exponential(mean))
        while fails < clock + back:
            clock, fails = fails, fails + float(draw.exponential(mean))
        clock += back
    return done * interval / clock


def each_micro(costs: np.ndarray, plan: np.ndarray) -> float:
    """How much longer a step takes than in perfect balance where ranks wait for each other after every micro-step, as
    sharded models do: the sum over these of the largest pack, over a rank's mean. 1 is perfect.
    (`mmdata.pack.imbalance` has the same for ranks that wait once a step.)"""
    padded = np.append(costs, 0.0)[plan]
    mean = float(padded.sum()) / len(plan)
    return float(padded.max(0).sum()) / mean if mean > 0 else 1.0
