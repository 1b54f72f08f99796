"""Bad samples: masked in place, counted, noted, remembered by every later read of the run on every topology."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.collate import PackedCollator
from mmdata.errors import RunError, SpecError
from mmdata.families import Family
from mmdata.stream.skips import Mark, Skip, SkipLog, digest
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed, World
from tests.dataset_fixture import write_dataset

SAMPLES, EPOCHS, G = 24, 3, 4


def skip(key: str, taken: int, *dealt: tuple[int, int], reason: str = "part_crc32c") -> Skip:
    return Skip(dataset=0, path="d", key=key, reason=reason, mark=Mark(taken=taken, dealt=dealt))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", samples=SAMPLES, per_shard=8)


def flip(folder: Path, key: str) -> Callable[[], None]:
    """Flip a bit in the image of a sample; what is returned flips it back."""
    row = open_dataset(folder).row(int(key))
    (image,) = (part for part in row.parts if part.kind == "image")
    assert image.place is not None
    path = folder / "shards" / f"{int(key) // 8:06d}.tar"

    def flipped() -> None:
        data = bytearray(path.read_bytes())
        data[image.place.offset + image.place.size // 2] ^= 16  # type: ignore[union-attr]
        path.write_bytes(data)

    flipped()
    return flipped


def stream(folder: Path, family: Family, run: Path | None, rank: int = 0, ranks: int = 1, **spec: Any):
    told = StreamSpec(**{"dataset": str(folder), "max_length": 96, "seed": 2, "epochs": EPOCHS, **spec})
    world = World(rank=rank, ranks=ranks)
    return StreamingDataset(told, family=family, world=world, global_batch=G, run_folder=run)


def masks(packs: Any) -> list[tuple[str, str]]:
    return [entry for pack in packs for entry in pack.masked]


def test_once_bad_is_bad_in_the_whole_run(folder: Path, family: Family, tmp_path: Path) -> None:
    """Its file recovers after the first epoch; the mask stays, resumed or not, on any topology, and in no other run."""
    bad = "000000013"
    first_epoch = len(stream(folder, family, None).block().packs)
    repair = flip(folder, bad)
    running = stream(folder, family, tmp_path / "run")
    packs = iter(running)
    head = list(itertools.islice(packs, first_epoch))
    repair()
    state = json.loads(json.dumps(running.state_dict()))
    rest = list(packs)
    assert masks(head) == [(bad, "part_crc32c")]
    assert masks(rest) == [(bad, "part_crc32c")] * (EPOCHS - 1)
    assert running.bad == {"part_crc32c": EPOCHS}
    assert state["skips"]["count"] == 1
    log = [json.loads(line) for line in (tmp_path / "run" / "skips.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["reason"], entry["path"]) for entry in log] == [(bad, "part_crc32c", str(folder))]
    for ranks in (1, 2, 3):
        copy = tmp_path / f"run-{ranks}"
        shutil.copytree(tmp_path / "run", copy)
        streams = [stream(folder, family, copy, rank, ranks) for rank in range(ranks)]
        for resumed in streams:
            resumed.load_state_dict(state)
        found = [pack for resumed in streams for pack in resumed]
        assert masks(found) == masks(rest), ranks
        assert sorted(pack.keys for pack in found if pack.keys) == sorted(pack.keys for pack in rest)
    assert masks(stream(folder, family, tmp_path / "another")) == []


def test_what_came_after_the_state_is_forgotten_and_found_again(folder: Path, family: Family, tmp_path: Path) -> None:
    repair = {key: flip(folder, key) for key in ("000000003", "000000013", "000000021")}
    running = stream(folder, family, tmp_path / "run")
    packs = iter(running)
    states = [running.state_dict(), *(running.state_dict() for _ in packs)]
    counts = [state["skips"]["count"] for state in states]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    log = tmp_path / "run" / "skips.jsonl"
    found = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    known = next(count for count in counts if count)
    repair[found[-1]]()
    resumed = stream(folder, family, tmp_path / "run")
    resumed.load_state_dict(states[counts.index(known)])
    assert log.read_text().count("\n") == known
    assert {key for key, _ in masks(resumed)} == set(found[:-1])
    assert resumed.state_dict()["skips"]["count"] == 2
    assert [json.loads(line)["key"] for line in log.read_text().splitlines()] == found[:-1]


def test_without_the_log_a_state_is_refused(folder: Path, family: Family, tmp_path: Path) -> None:
    flip(folder, "000000003")
    running = stream(folder, family, tmp_path / "run")
    for _ in running:
        pass
    state = running.state_dict()
    with pytest.raises(SpecError, match=r"1 skipped samples .* no run_folder was given"):
        stream(folder, family, None).load_state_dict(state)
    with pytest.raises(SpecError, match=r"elsewhere/skips.jsonl holds 0"):
        stream(folder, family, tmp_path / "elsewhere").load_state_dict(state)
    (tmp_path / "run" / "skips.jsonl").write_text("{}\n")
    with pytest.raises(SpecError, match="not a skip log"):
        stream(folder, family, tmp_path / "run").load_state_dict(state)
    nothing = stream(folder, family, None)
    for _ in nothing:
        pass
    assert nothing.state_dict()["skips"] is None


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_note_and_know(folder: Path, family: Family, tmp_path: Path, workers: int) -> None:
    repair = flip(folder, "000000013")
    run = stream(folder, family, tmp_path / "run", epochs=1)
    loader = DataLoader(run, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    assert masks(loader) == [("000000013", "part_crc32c")]
    repair()
    run.set_epoch(1)
    assert masks(loader) == [("000000013", "part_crc32c")]
    steps = len(run.block(1).packs) // G
    assert run.state_dict(step=steps)["skips"]["count"] == 1


def test_the_loader_remembers_too(folder: Path, family: Family, tmp_path: Path) -> None:
    repair = flip(folder, "000000013")
    loader = StreamLoader(stream(folder, family, tmp_path / "run", epochs=1), PackedCollator())
    list(loader)
    repair()
    loader.dataset.set_epoch(1)
    list(loader)
    assert loader.bad == {"part_crc32c": 2}
    assert loader.state_dict()["skips"]["count"] == 1


def test_equal_keys_of_two_datasets_in_one_pack_are_told_apart(folder: Path, family: Family, tmp_path: Path) -> None:
    """The second of them is the bad one: it is named, noted and masked again, and the first one never."""
    other = write_dataset(tmp_path / "other", samples=SAMPLES, per_shard=8)
    flip(other, "000000013")
    told = {"datasets": [{"path": str(folder)}, {"path": str(other)}], "max_length": 8192, "shuffle": "none"}
    run = StreamingDataset(StreamSpec(**told), family=family, run_folder=tmp_path / "run")
    for _ in range(2):
        (pack,) = run
        assert pack.keys.count("000000013") == 2
        assert pack.masked == (("000000013", "part_crc32c"),)
        assert pack.masked_segments == (SAMPLES + 13,)
    assert run.state_dict()["skips"]["count"] == 1
    (entry,) = [json.loads(line) for line in (tmp_path / "run" / "skips.jsonl").read_text().splitlines()]
    assert (entry["dataset"], entry["path"], entry["key"]) == (1, str(other), "000000013")
    loader = StreamLoader(run, PackedCollator())
    list(loader)
    assert loader.bad == {"part_crc32c": 3}
    assert loader.state_dict()["skips"]["count"] == 1


def test_samples_are_skipped_and_remembered(folder: Path, tmp_path: Path) -> None:
    repair = flip(folder, "000000013")
    run = StreamingDataset(folder, run_folder=tmp_path / "run")
    assert len([sample.key for sample in run]) == SAMPLES - 1
    repair()
    assert "000000013" not in [sample.key for sample in run]
    assert run.bad == {"part_crc32c": 2}
    raw = StreamingDataset(folder, yields="raw")
    assert sorted(sample.key for sample in raw) == open_dataset(folder).keys()


def test_quarantine_keeps_the_bytes_as_they_are(folder: Path, family: Family, tmp_path: Path) -> None:
    sound = open_dataset(folder)["000000013"].media[0].data
    flip(folder, "000000013")
    run = stream(folder, family, tmp_path / "run", quarantine=True)
    assert len(masks(run)) == EPOCHS
    kept = tmp_path / "run" / "quarantine" / "dataset"
    assert sorted(path.name for path in kept.iterdir()) == ["000000013.jpg", "000000013.txt"]
    data = (kept / "000000013.jpg").read_bytes()
    assert sound is not None
    assert [a ^ b for a, b in zip(data, sound, strict=True) if a != b] == [16]


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"consecutive": 2}, r"2 records in a row have failed; the last: .*shard [01] row \d 0000000\d\d: part_crc32c"),
        ({"rate": 0.25, "probation": 12}, r"of \d\d records have failed, more than the allowed 25.0%"),
    ],
)
def test_a_budget_stops_the_run(
    folder: Path, family: Family, tmp_path: Path, failures: dict[str, Any], message: str
) -> None:
    for key in range(16):
        flip(folder, f"{key:09d}")
    with pytest.raises(RunError, match=message):
        list(stream(folder, family, tmp_path / "run", failures=failures))


def test_a_run_folder_that_cannot_be_made(folder: Path, family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run_folder: .* cannot be made"):
        stream(folder, family, tmp_path / "file" / "run")


def test_ranks_share_a_log(tmp_path: Path) -> None:
    a, b = (SkipLog(tmp_path, rank=rank, ranks=2) for rank in (0, 1))
    assert a.add(skip("x", 4))
    assert b.add(skip("y", 2))
    assert b.add(skip("z", 8))
    assert a.reason(0, "y") is None
    a.refresh()
    assert a.reason(0, "y") == "part_crc32c"
    assert not a.add(skip("y", 9))
    assert a.save(Mark(taken=4)) == b.save(Mark(taken=4)) == (2, digest([skip("y", 2), skip("x", 4)]))
    later = [SkipLog(tmp_path, rank=rank, ranks=3) for rank in range(3)]
    for log in later:
        log.restore(2, digest([skip("y", 2), skip("x", 4)]), Mark(taken=4))
        assert [log.reason(0, key) for key in "xyz"] == ["part_crc32c", "part_crc32c", None]


def test_a_line_that_a_kill_cut_is_none(tmp_path: Path) -> None:
    log = SkipLog(tmp_path)
    log.add(skip("x", 4))
    log.add(skip("y", 8))
    (path,) = (tmp_path / "skips").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    other = SkipLog(tmp_path, rank=1, ranks=2)
    other.refresh()
    assert (other.reason(0, "x"), other.reason(0, "y")) == ("part_crc32c", None)


DEALT = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=3).map(tuple)
MARKS = st.builds(Mark, first_epoch=st.integers(0, 1), taken=st.integers(0, 3), dealt=DEALT)


@given(st.lists(st.tuples(MARKS, st.sampled_from("abcdef")), max_size=12), st.lists(MARKS, max_size=3))
def test_saving_again_only_adds(found: list[tuple[Mark, str]], saves: list[Mark]) -> None:
    """What a state counts is a prefix of what every later one does, so one file holds the logs of all states."""
    log = SkipLog(None)
    for at, key in found:
        log.add(Skip(dataset=0, path="d", key=key, reason="r", mark=at))
    states = [(log.save(at), list(log._saved)) for at in saves]
    for ((count, _), before), ((later, _), after) in itertools.pairwise(states):
        assert count <= later
        assert after[:count] == before
    for (count, expected), held in states:
        assert digest(held[:count]) == expected
        assert len({entry.key for entry in held}) == count


def test_packed_names_what_is_masked(folder: Path, family: Family) -> None:
    flip(folder, "000000013")
    (pack,) = (pack for pack in stream(folder, family, None, epochs=1) if pack.masked)
    assert isinstance(pack, Packed)
    number = pack.keys.index("000000013")
    assert (pack.labels[pack.cu_seqlens[number] : pack.cu_seqlens[number + 1]] == -100).all()
