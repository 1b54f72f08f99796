"""A thousand million samples: any position opens at once, in little memory, with a small state."""

from __future__ import annotations

import pytest

from benchmarks.planner import apart
from mmdata.testing.synthetic import SyntheticDataset, SyntheticLengths, scattered


@pytest.mark.parametrize(
    ("shuffle", "weighted"), [pytest.param("global", False, marks=pytest.mark.soak), ("block", True)]
)
def test_any_position_opens_at_once(shuffle: str, weighted: bool) -> None:
    """In a process of its own, above what it has after its imports. CPU seconds, since other tests run beside it."""
    found = apart(10**9, shuffle, 10_000, weighted=weighted)
    assert found["samples"] == (3 if weighted else 1) * 10**9
    assert found["cpu"] < 1
    assert found["mib"] < 200
    assert found["state"] <= 4096
    assert found["packs"] > 300


def test_facts_follow_from_positions() -> None:
    data = SyntheticDataset(10_000, per_shard=300)
    assert data.shard_rows.sum() == len(data) == 10_000
    positions = data.shard_firsts[:-1]
    sizes = [media[0].height for media in data.media_at(positions)]
    assert sizes == [media[0].height for media in SyntheticDataset(99).media_at(positions)]
    assert len(set(sizes)) > 10
    assert len(set(data.keys_at(positions))) == len(positions)
    tokens = SyntheticLengths().at(positions).tokens
    assert tokens.min() >= 5
    assert tokens.max() <= 260
    assert scattered(positions).max() < 2**31
