"""Samples that are removed while a run goes on: masked at once, unread; left out from the next epoch; exact resumes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, RunError, SpecError
from mmdata.families import Family
from mmdata.forget import forget, main
from mmdata.shards import tombstones
from mmdata.stream.spec import StreamSpec
from mmdata.testing.resume import Adapter, Topology, resume_at_every_step
from mmdata.testing.server import FaultServer
from mmdata.types import Packed, World
from tests.dataset_fixture import write_dataset

SAMPLES, G, EPOCHS = 24, 4, 3
Names = list[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", samples=SAMPLES, per_shard=8)


def stream(folder: Path, family: Family | None, rank: int = 0, ranks: int = 1, **fields: Any) -> StreamingDataset:
    run = fields.pop("run_folder", None)
    source = {} if "datasets" in fields else {"dataset": str(folder)}
    told = {
        **source,
        "max_length": 64,
        "seed": 2,
        "epochs": 1 if "datasets" in fields else EPOCHS,
        "block_samples": 10,
        **fields,
    }
    world = World(rank=rank, ranks=ranks)
    return StreamingDataset(StreamSpec(**told), family=family, world=world, global_batch=G, run_folder=run)


def names(packs: Any) -> Names:
    return [(pack.keys, pack.masked) for pack in packs if pack.keys]


def known(stream: StreamingDataset) -> Names:
    """What would be read of each pack, and what would be masked."""
    return [
        (dealt.pack.keys, tuple((item.key, reason) for item in dealt.pack.items if (reason := stream.known(item))))
        for dealt in stream.deals()
        if dealt.pack
    ]


def spoil(folder: Path, key: str) -> None:
    """Change a byte of the picture of a sample, so that whoever reads it finds out."""
    (image,) = (part for part in open_dataset(folder).row(int(key)).parts if part.kind == "image")
    assert image.place is not None
    path = folder / "shards" / f"{int(key) // 8:06d}.tar"
    data = bytearray(path.read_bytes())
    data[image.place.offset + 50] ^= 1
    path.write_bytes(data)


def test_masked_at_once_and_left_out_from_the_next_epoch(folder: Path, family: Family, tmp_path: Path) -> None:
    """Saved in the first epoch, resumed after a removal: its order stays, the removed train nothing and are not read,
    and the next epochs are those of a stream that never had them."""
    running = stream(folder, family, run_folder=tmp_path / "run", quarantine=True, failures={"consecutive": 1})
    undisturbed = [pack for pack in running if isinstance(pack, Packed)]
    first_epoch = sum(len(running.block(0, number).packs) for number in range(running.planner.blocks))
    state = json.loads(json.dumps(running.state_dict(step=1)))
    gone = [undisturbed[G].keys[0], undisturbed[first_epoch - 1].keys[-1]]
    assert main([str(folder), "--keys", *gone, "--reason", "opt_out"]) == 0
    for key in gone:
        spoil(folder, key)
    resumed = stream(folder, family, run_folder=tmp_path / "run", quarantine=True, failures={"consecutive": 1})
    resumed.load_state_dict(state)
    rest = [pack for pack in resumed if isinstance(pack, Packed)]
    running_epoch, later = rest[: first_epoch - G], rest[first_epoch - G :]
    assert [pack.keys for pack in running_epoch] == [pack.keys for pack in undisturbed[G:first_epoch]]
    assert sorted(entry for pack in running_epoch for entry in pack.masked) == sorted(
        (key, "forgotten") for key in gone
    )
    for before, after in zip(undisturbed[G:first_epoch], running_epoch, strict=True):
        assert {name: array.shape for name, array in after.media.items()} == {
            name: array.shape for name, array in before.media.items()
        }
        assert np.array_equal(before.cu_seqlens, after.cu_seqlens)
        for segment, (start, stop) in enumerate(zip(after.cu_seqlens[:-1], after.cu_seqlens[1:], strict=True)):
            masked = segment in after.masked_segments
            assert (after.labels[start:stop] == -100).all() == masked
            assert np.array_equal(after.labels[start:stop], before.labels[start:stop]) != masked
    fresh = stream(folder, family)
    fresh.set_epoch(1)
    left = sorted(set(open_dataset(folder).keys()) - set(gone))
    assert [pack.keys for pack in later] == [pack.keys for pack in fresh][: len(later)]
    assert sorted(key for pack in later for key in pack.keys) == sorted(left * (EPOCHS - 1))
    assert not any(pack.masked for pack in later)
    of_blocks = [resumed.block(1, number).left_out for number in range(resumed.planner.blocks)]
    assert sum(of_blocks, Counter()) == {"forgotten": 2}
    assert resumed.bad == {"forgotten": 2}
    assert resumed.state_dict()["skips"]["count"] == 0
    assert not (tmp_path / "run" / "quarantine").exists()


@pytest.mark.parametrize("yields", ["sample", "raw"])
def test_without_a_family_it_is_skipped_and_then_left_out(folder: Path, yields: str) -> None:
    running = StreamingDataset(folder, seed=2, epochs=2, yields=yields)  # type: ignore[arg-type]
    keys = [sample.key for sample in running]
    state = running.state_dict(step=5)
    forget(folder, keys[9:11], "opt_out")
    for key in keys[9:11]:
        spoil(folder, key)
    resumed = StreamingDataset(folder, seed=2, epochs=2, yields=yields)  # type: ignore[arg-type]
    resumed.load_state_dict(state)
    found = [sample.key for sample in resumed]
    left = SAMPLES - 5 - 2
    assert found[:left] == [key for key in keys[5:SAMPLES] if key not in keys[9:11]]
    assert sorted(found[left:]) == sorted(set(keys) - set(keys[9:11]))
    assert resumed.bad == {"forgotten": 2}
    assert resumed.block(1).left_out == {"forgotten": 2}
    anew = StreamingDataset(folder, seed=2, epochs=2, yields=yields)  # type: ignore[arg-type]
    assert [sample.key for sample in anew][SAMPLES - 2 :] == found[left:]
    assert not anew.bad


def ranked(folder: Path, family: Family, state: dict[str, Any]) -> Adapter:
    class Rank:
        def __init__(self, world: World) -> None:
            self.stream = stream(folder, family, world.rank, world.ranks)
            self.stream.load_state_dict(state)
            self.at = self.stream.start

        def __iter__(self) -> Iterator[Any]:
            for dealt in self.stream.deals():
                self.at = dealt.after
                items = dealt.pack.items if dealt.pack else ()
                yield tuple((item.key, self.stream.known(item)) for item in items)

    return Adapter(
        open=Rank,
        save=lambda rank: rank.stream.state_at(rank.at),
        load=lambda rank, saved: rank.stream.load_state_dict(saved),
        ids=lambda packed: [packed] if packed else [],
    )


def test_every_step_resumes_on_other_topologies(folder: Path, family: Family) -> None:
    """A run that began, went on after a removal and after another one: each of its states, also within steps and where
    steps reach over the end of an epoch, goes on to the same packs with the same masks."""
    begun = stream(folder, family).state_dict(step=1)
    forget(folder, ["000000003", "000000011"], "opt_out")
    between = stream(folder, family)
    between.load_state_dict(begun)
    once = known(between)
    state = between.state_dict(step=2)
    forget(folder, ["000000020"], "licence")
    adapter = ranked(folder, family, state)
    report = resume_at_every_step(
        adapter,
        saved_on=[Topology(ranks=1), Topology(ranks=2)],
        resumed_on=[Topology(ranks=1), Topology(ranks=3)],
        step_items=G,
        every=3,
    )
    assert report.exact, str(report)
    resumed = stream(folder, family)
    resumed.load_state_dict(state)
    twice = known(resumed)
    epoch = sum(len(resumed.block(0, number).packs) for number in range(resumed.planner.blocks)) - 2 * G
    assert [keys for keys, _ in twice[:epoch]] == [keys for keys, _ in once[G : G + epoch]]
    assert "000000020" not in {key for keys, _ in twice[epoch:] for key in keys}
    assert {reason for _, masked in twice[epoch:] for _, reason in masked} == set()
    assert [(held.epoch, held.generations) for held in resumed.extents] == [(0, []), (1, [2])]


def test_a_state_within_a_step_is_accepted(folder: Path, family: Family) -> None:
    """The packs of a step are dealt by what all of them hold: until it is done nothing of it may be planned anew, also
    where it reaches into the next epoch."""
    running = stream(folder, family)
    undisturbed = known(running)
    first_epoch = sum(len(running.block(0, number).packs) for number in range(running.planner.blocks))
    assert first_epoch % G, "a step is to reach over the end of the epoch"
    states = {}
    for dealt in running.deals():
        states[dealt.after.taken, dealt.after.dealt] = running.state_at(dealt.after)
    across = first_epoch // G * G
    forget(folder, [undisturbed[-1][0][0]], "opt_out")
    for (taken, dealt), state in states.items():
        if not dealt or taken not in (0, across):
            continue
        resumed = stream(folder, family)
        resumed.load_state_dict(state)
        begun = taken + dealt[0][1]
        kept = first_epoch if taken == 0 else 2 * first_epoch  # alike, where nothing changes
        assert [keys for keys, _ in known(resumed)][: kept - begun] == [keys for keys, _ in undisturbed[begun:kept]]
        assert resumed.extents[-1].epoch == (1 if taken == 0 else 2)
        assert resumed.block(resumed.extents[-1].epoch - 1).left_out == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_mask_and_leave_out_the_same(folder: Path, family: Family, workers: int) -> None:
    """Plain DataLoader by the dataset's state, and StatefulDataLoader by those of its workers."""
    running = stream(folder, family)
    state = running.state_dict(step=1)
    stateful = StatefulDataLoader(stream(folder, family), batch_size=None, num_workers=workers)
    taken = iter(stateful)
    for _ in range(G):
        next(taken)
    loaders = stateful.state_dict()
    del taken
    keys = [keys for keys, _ in known(running)]
    forget(folder, [keys[G][0], keys[-1][0]], "opt_out")
    alone = stream(folder, family)
    alone.load_state_dict(state)
    expected = names(alone)
    assert any(masked for _, masked in expected)
    plain = stream(folder, family)
    plain.load_state_dict(state)
    assert names(DataLoader(plain, batch_size=None, num_workers=workers)) == expected
    assert plain.state_dict(step=len(expected) // G - 1)["data"] == alone.state_dict()["data"][-1:]
    again = StatefulDataLoader(stream(folder, family), batch_size=None, num_workers=workers)
    again.load_state_dict(loaders)
    assert names(again) == expected


def test_the_loader_masks_too(folder: Path, family: Family) -> None:
    running = stream(folder, family)
    state, keys = running.state_dict(step=1), [keys for keys, _ in known(running)]
    forget(folder, [keys[G][0]], "opt_out")
    spoil(folder, keys[G][0])
    loader = StreamLoader(stream(folder, family), PackedCollator())
    loader.load_state_dict(state)
    first = next(iter(loader))
    assert tuple(first["keys"]) == keys[G]
    list(loader)
    assert loader.bad["forgotten"] >= 1
    assert set(loader.bad) == {"forgotten"}


def test_steps_are_found_from_where_the_data_changed(folder: Path, family: Family) -> None:
    """What the epoch before a change held is not known once it is over: no step of it is found by another plan."""
    begun = stream(folder, family).state_dict(step=1)
    forget(folder, ["000000003"], "opt_out")
    resumed = stream(folder, family)
    resumed.load_state_dict(begun)
    rest = known(resumed)
    later, again = stream(folder, family), stream(folder, family)
    later.load_state_dict(resumed.state_dict(step=5))
    assert [held.epoch for held in later.extents] == [1]
    assert len(rest) // G > 6
    for step in range(5, len(rest) // G):
        again.load_state_dict(later.state_dict(step=step))
        assert known(again) == rest[(step - 1) * G :]
    with pytest.raises(SpecError, match="seek: step 4 lies before the state that was loaded"):
        later.seek(4)


def test_removals_that_are_gone_or_others_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    forget(folder, ["000000003"], "opt_out")
    state = StreamingDataset(folder).state_dict()
    assert (state["data"][0]["generations"], len(state["data"][0]["removed"])) == ([1], 12)
    with pytest.raises(SpecError, match=r"dataset .*copy: 1 removals \(tombstones\) -> 0"):
        StreamingDataset(tmp_path / "copy").load_state_dict(state)
    forget(tmp_path / "copy", ["000000004"], "opt_out")
    with pytest.raises(SpecError, match=r"removals \(tombstones\): digest [0-9a-f]{12} -> [0-9a-f]{12}"):
        StreamingDataset(tmp_path / "copy").load_state_dict(state)


def test_where_all_is_removed_the_stream_says_so(folder: Path) -> None:
    forget(folder, open_dataset(folder).keys(), "opt_out")
    with pytest.raises(DataError, match=f"no_packs: .*{SAMPLES} forgotten"):
        list(StreamingDataset(folder))


def test_damaged_tombstones_stop_the_stream(folder: Path) -> None:
    forget(folder, ["000000003"], "opt_out")
    (folder / tombstones.name(1)).write_bytes(b"")
    with pytest.raises(DataError, match="tombstones_damaged"):
        StreamingDataset(folder)


def test_a_mixture_masks_at_once_and_goes_on_masking(folder: Path, family: Family, tmp_path: Path) -> None:
    """It has no epochs of its own; one that begins later leaves them out, and keeps its shares."""
    other = write_dataset(tmp_path / "other", samples=16, per_shard=8)
    datasets = [{"path": str(folder), "weight": 0.5, "epochs": 2}, {"path": str(other), "weight": 0.5, "epochs": 2}]
    running = stream(folder, family, datasets=datasets)
    undisturbed = known(running)
    state = running.state_dict(step=1)
    forget(folder, ["000000003", "000000011"], "opt_out")
    resumed = stream(folder, family, datasets=datasets)
    resumed.load_state_dict(state)
    rest = known(resumed)
    assert [keys for keys, _ in rest] == [keys for keys, _ in undisturbed[G:]]
    assert {key for _, masked in rest for key, _ in masked} == {"000000003", "000000011"}
    again = stream(folder, family, datasets=datasets)
    again.load_state_dict(resumed.state_dict(step=3))
    assert known(again) == rest[2 * G :]
    anew = stream(folder, family, datasets=datasets)
    dealt = [item for deal in anew.deals() if deal.pack for item in deal.pack.items]
    assert not {item.key for item in dealt if item.dataset == 0} & {"000000003", "000000011"}
    assert {"000000003", "000000011"} <= {item.key for item in dealt if item.dataset == 1}


def test_removals_of_a_remote_dataset(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked up whenever a stream is opened, whatever the cache has of the dataset."""
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)
    with FaultServer(folder.parent) as server:

        def opened() -> StreamingDataset:
            return StreamingDataset(StreamSpec(dataset=f"{server.url}/dataset", cache=str(tmp_path / "cache")))

        assert len(list(opened())) == SAMPLES
        for generation, key in enumerate(("000000003", "000000011"), 1):
            forget(folder, [key], "opt_out")
            assert len(list(found := opened())) == SAMPLES - generation
            assert found.dataset.masked().tolist() == open_dataset(folder).masked().tolist()
        url = server.url
    with pytest.raises(RunError):
        open_dataset(f"{url}/dataset").removals()
