"""What is executed at scale against streams and datasets that are real: dealing, index, resume."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mmdata import StreamingDataset
from mmdata.families import get_family
from mmdata.simulation import findings
from mmdata.simulation.cluster import Cluster
from mmdata.simulation.executed import Executed, execute, index_bytes, quality, stream
from mmdata.stream.cost import loads
from mmdata.stream.deal import Cursor, deal
from mmdata.stream.position import Position
from mmdata.testing.synthetic import SyntheticLengths
from mmdata.types import World
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

SMALL = Cluster(samples=10**6, ranks=8, block_samples=1000, packs_per_rank=3)


@pytest.fixture(scope="module")
def found() -> Executed:
    return execute(SMALL, [4, 8], [1000, 2000, 4000])


def test_a_step_is_dealt_as_the_ranks_of_a_real_stream_take_it(found: Executed) -> None:
    """The very costs of every rank, by the generator that a training process draws from."""
    with mock.patch("mmdata.stream.measure.Lengths", SyntheticLengths):
        planner, spec, *_ = stream(SMALL)
        start = Cursor(position=Position(1, planner.blocks // 2))
        totals = np.zeros((SMALL.ranks, 2))
        for rank in range(SMALL.ranks):
            world = World(rank=rank, ranks=SMALL.ranks)
            for dealt in deal(planner, start, epochs=None, global_batch=SMALL.global_batch, world=world):
                assert dealt.pack is not None
                totals[rank] += loads([dealt.pack.cost], spec.costs)[0, :2]
                if dealt.micro + 1 == dealt.micros:
                    break
    mine = findings.dealt_at(SMALL, found)
    assert (mine.total, mine.vision) == pytest.approx(tuple(totals.max(0) / totals.mean(0)))
    assert 1 <= mine.total <= mine.in_turn_total
    assert mine.vision < mine.in_turn_vision
    assert mine.micro >= mine.total - 1e-9


def test_the_cost_of_planning_does_not_grow_with_the_dataset(found: Executed) -> None:
    large = execute(SMALL.model_copy(update={"samples": 10**9}), [8], [])
    assert large.plan_seconds < 4 * found.plan_seconds + 0.05
    assert large.packs_per_block == pytest.approx(found.packs_per_block, rel=0.05)
    assert large.state_bytes < 4096


def test_an_index_is_as_large_as_that_of_a_dataset(tmp_path: Path) -> None:
    """Of pictures with captions, per sample: within a third (dedup signatures and metadata make it larger)."""
    folder = write_dataset(tmp_path / "dataset", samples=60, per_shard=30)
    real = (folder / "index" / "000000.arrow").stat().st_size
    assert index_bytes(30) == pytest.approx(real, rel=0.34)


def test_resuming_takes_what_is_said(found: Executed, tmp_path: Path) -> None:
    """CPU seconds from a state to the first pack of a small real dataset: at most what a larger block takes."""
    folder = write_dataset(tmp_path / "dataset", samples=40)
    family = get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})
    made = StreamingDataset(str(folder), family=family, max_length=128, run_folder=tmp_path / "run")
    for dealt in made.deals():
        if dealt.step == 5:
            break
    saved = made.state_dict(step=5)
    again = StreamingDataset(str(folder), family=family, max_length=128, run_folder=tmp_path / "run")
    began = time.process_time()
    again.load_state_dict(saved)
    first = next(iter(again.deals()))
    again.read(first)
    assert first.step == 5
    assert time.process_time() - began < findings.resume_seconds(SMALL, found) + 0.3


def test_mixing_more_at_once_is_mixing_better(found: Executed) -> None:
    scores = [score for _, score in found.qualities]
    assert scores == sorted(scores)
    assert quality(SMALL.model_copy(update={"shuffle": "shard"}), 1000) < 0.01
