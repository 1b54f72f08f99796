"""Several datasets: how much of each belongs to a stream, and states in the middle of their mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmdata import StreamingDataset, open_dataset
from mmdata.families import Family
from mmdata.stream.sources import held
from mmdata.stream.spec import StreamSpec
from mmdata.testing.resume import Topology, resume_at_every_step
from tests.dataset_fixture import write_dataset
from tests.stream.test_topology import G, adapter


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("sources") / "other", samples=20, per_shard=8)


def test_what_is_held(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert np.array_equal(held(dataset, 3, None).shard_firsts, [0, 16, 32, 43])
    assert np.array_equal(held(dataset, 2, None).shard_firsts, [0, 16, 32])
    for limit, firsts in ((20, [0, 16, 20]), (16, [0, 16]), (99, [0, 16, 32, 43]), (1, [0, 1])):
        assert np.array_equal(held(dataset, 3, limit).shard_firsts, firsts)


def test_in_the_middle_of_a_mixture(folder: Path, other: Path, family: Family) -> None:
    spec = StreamSpec(
        datasets=(
            {"path": str(folder), "name": "a", "weight": 0.7, "epochs": 2},
            {"path": str(other), "name": "b", "weight": 0.3, "epochs": 2, "limit": 15},
        ),
        max_length=72,
        block_samples=16,
        seed=3,
    )
    report = resume_at_every_step(
        adapter(spec, family),
        saved_on=[Topology(ranks=24), Topology(ranks=8)],
        resumed_on=[Topology(ranks=1), Topology(ranks=3, workers=4), Topology(ranks=5)],
        step_items=G,
        every=2,
    )
    assert report.exact, str(report)
    assert report.steps >= 3


def test_weights_in_one_argument(folder: Path, other: Path) -> None:
    stream = StreamingDataset({str(folder): 0.5, str(other): 0.5}, seed=1)
    seen = [sample.key for sample, _ in zip(stream, range(30), strict=False)]
    assert len(seen) == 30
    assert len(StreamingDataset([str(folder), str(other)]).datasets) == 2
