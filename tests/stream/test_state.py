"""States: few integers and digests at any size, a readable refusal, and datasets that grow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mmdata
from mmdata import StreamingDataset, open_dataset
from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.stream import state as states
from mmdata.stream.deal import Cursor
from mmdata.stream.extent import Extent
from mmdata.stream.position import Position
from mmdata.stream.spec import StreamSpec
from mmdata.testing.resume import Adapter, Topology, resume_at_every_step
from mmdata.types import World
from tests.dataset_fixture import write_dataset


def size(state: dict[str, Any]) -> int:
    return len(json.dumps(state).encode())


def keys(stream: StreamingDataset) -> list[tuple[str, ...]]:
    return [dealt.pack.keys for dealt in stream.deals() if dealt.pack]


@pytest.mark.parametrize("datasets", [1, 8, 32])
def test_at_most_four_kilobytes(folder: Path, family: Family, datasets: int) -> None:
    """With cursors of 10^9 samples and 10^13 tokens, in the middle of a step, a growing dataset and a long config."""
    spec = StreamSpec(
        datasets=tuple({"path": f"{folder}/{i}", "name": f"a long name {i}", "weight": 0.1} for i in range(datasets)),
        max_length=128,
    )
    real = StreamingDataset(folder, family=family, max_length=128)
    settings = states.config(spec, family, [real.template] * datasets)
    cursors = tuple((123, 99_999, 9_999, 10**9 + i, 10**13 + i, -(10**9)) for i in range(datasets))
    cursor = Cursor(
        position=Position(0, 10**5, 9_999, cursors),
        taken=10**10,
        size=4096,
        dealt=((512, 3), (384, 2)),
    )
    held = {"roots": "ab" * 6 * datasets, "shards": [10**6] * datasets, "generations": [12] * datasets}
    data = [Extent(epoch=0, removed="ab" * 6, **held)]
    state = states.dump(cursor, data, settings, skips=(10**6, "ab" * 6), control=(100, "ab" * 32))
    assert size(state) <= states.MAX_BYTES
    again = states.parse(json.loads(json.dumps(state)))
    assert again.cursor() == cursor
    states.refuse_other(again, settings, [])
    with pytest.raises(SpecError, match="seed: 0 -> 7"):
        states.refuse_other(again, {**settings, "seed": 7}, [])
    with pytest.raises(SpecError, match="tokenizer: "):
        states.refuse_other(again, {**settings, "tokenizer": "another"}, [])


def test_abbreviated_values_are_compared_by_their_digests() -> None:
    settings = {"long": list(range(2000)), "short": 1}
    data = [Extent(epoch=0, roots="ab" * 6, shards=[1])]
    state = states.parse(states.dump(Cursor(), data, settings))
    assert str(state.config["long"]).startswith("sha256:")
    states.refuse_other(state, settings, [])
    with pytest.raises(SpecError) as refusal:
        states.refuse_other(state, {**settings, "long": list(range(1999))}, [])
    assert 'long: "sha256:' in str(refusal.value)
    assert "short" not in str(refusal.value)


def test_another_version_of_the_code_is_told_beside_a_difference(folder: Path) -> None:
    stream = StreamingDataset(folder)
    saved = {**stream.state_dict(), "code": "0.0.9"}
    stream.load_state_dict(saved)
    with pytest.raises(SpecError, match=f"mmdata: 0.0.9 -> {mmdata.__version__}"):
        StreamingDataset(folder, seed=1).load_state_dict(saved)


def test_what_is_no_state_is_refused(folder: Path) -> None:
    stream = StreamingDataset(folder)
    with pytest.raises(SpecError, match="not a stream state that mmdata"):
        stream.load_state_dict({**stream.state_dict(), "extra": 1})


def grown(tmp_path: Path, before: int, after: int) -> Path:
    """A folder that holds `before` samples; `more` beside it holds those and others after them."""
    write_dataset(tmp_path / "more", samples=after, per_shard=8)
    return write_dataset(tmp_path / "dataset", samples=before, per_shard=8)


def test_added_shards_count_from_the_next_epoch(tmp_path: Path, family: Family) -> None:
    """Saved at any step of the first epoch, with shards added before the resume, on other ranks: the running epoch is
    what it was, the next ones have it all; a state of the resumed run resumes to the same."""
    folder = grown(tmp_path, 24, 40)
    spec = StreamSpec(dataset=str(folder), max_length=128, seed=3, epochs=3, block_samples=8)
    epoch = keys(StreamingDataset(spec.model_copy(update={"epochs": 1}), family=family))
    running = StreamingDataset(spec, family=family, global_batch=4)
    saved = [running.state_dict(step=step) for step in range(1, len(epoch) // 4 + 1)]
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "more", folder)
    later = StreamingDataset(spec, family=family, global_batch=4)
    later.set_epoch(1)
    whole = [key for pack in keys(StreamingDataset(spec, family=family)) for key in pack]
    assert len(whole) == 3 * 40
    for step, state in enumerate(saved, 1):
        resumed = StreamingDataset(spec, family=family, global_batch=4)
        resumed.load_state_dict(state)
        rest = keys(resumed)
        assert rest[: len(epoch) - 4 * step] == epoch[4 * step :]
        counted = sorted(key for pack in rest[len(epoch) - 4 * step :] for key in pack)
        assert counted == sorted(open_dataset(folder).keys() * 2)
        again = StreamingDataset(spec, family=family, global_batch=4)
        again.load_state_dict(json.loads(json.dumps(resumed.state_dict(step=step + 1))))
        assert keys(again) == rest[4:]


def test_a_state_of_before_and_after_growing_is_exact_on_any_topology(tmp_path: Path, family: Family) -> None:
    folder = grown(tmp_path, 16, 24)
    spec = StreamSpec(dataset=str(folder), max_length=96, seed=3, epochs=3)
    begun = StreamingDataset(spec, family=family, global_batch=6).state_dict(step=1)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "more", folder)

    class Rank:
        def __init__(self, world: World) -> None:
            self.stream = StreamingDataset(
                spec, family=family, world=World(rank=world.rank, ranks=world.ranks), global_batch=6
            )
            self.stream.load_state_dict(begun)
            self.at = self.stream.start

        def __iter__(self) -> Any:
            for dealt in self.stream.deals():
                self.at = dealt.after
                yield dealt.pack.keys if dealt.pack else ()

    report = resume_at_every_step(
        Adapter(
            open=Rank,
            save=lambda rank: rank.stream.state_at(rank.at),
            load=lambda rank, state: rank.stream.load_state_dict(state),
            ids=lambda packed: [packed] if packed else [],
        ),
        saved_on=[Topology(ranks=2)],
        resumed_on=[Topology(ranks=1), Topology(ranks=3)],
        step_items=6,
        every=3,
    )
    assert report.exact, str(report)


def test_within_a_step_its_epoch_stays_as_it_was(tmp_path: Path, family: Family) -> None:
    folder = grown(tmp_path, 16, 24)
    spec = StreamSpec(dataset=str(folder), max_length=96, epochs=2)
    running = StreamingDataset(spec, family=family, global_batch=4)
    epoch = keys(StreamingDataset(spec.model_copy(update={"epochs": 1}), family=family))
    next(iter(running))
    state = running.state_dict()
    assert state["dealt"]
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "more", folder)
    resumed = StreamingDataset(spec, family=family, global_batch=4)
    resumed.load_state_dict(state)
    rest = keys(resumed)
    assert rest[: len(epoch) - 1] == epoch[1:]
    assert sorted(key for pack in rest[len(epoch) - 1 :] for key in pack) == open_dataset(folder).keys()


def test_lost_or_changed_shards_are_refused(tmp_path: Path) -> None:
    folder = grown(tmp_path, 16, 24)
    state = StreamingDataset(tmp_path / "more").state_dict()
    with pytest.raises(SpecError, match="3 shards -> 2"):
        StreamingDataset(folder).load_state_dict(state)
    other = write_dataset(tmp_path / "other", samples=24, per_shard=12)
    with pytest.raises(SpecError, match=r"root digest of its first 1 shards [0-9a-f]{12} -> [0-9a-f]{12}"):
        StreamingDataset(other).load_state_dict(
            {**StreamingDataset(folder).state_dict(), "data": [{"epoch": 0, "roots": "ab" * 6, "shards": [1]}]}
        )
