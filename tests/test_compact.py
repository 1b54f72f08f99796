"""`mmdata.compact`: what stays keeps its bytes, the ledger tells of the rest, and any moment can be the last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmdata import compact
from mmdata.build import build_dataset
from mmdata.compact import compact_dataset
from mmdata.errors import DataError, RunError, SpecError
from mmdata.forget import forget
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.verify import verify_dataset
from tests.building import content, folder_of_pictures, ledger, picture, write_spec

REMOVED = [2, 3, 13, *range(20, 30)]
"""Rows; 20 to 29 are all of a unit."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five units of ten rows, the last of five; some samples removed, and a unit where none is."""
    folder = tmp_path_factory.mktemp("compact")
    folder_of_pictures(folder / "in", 45)
    picture(0).save(folder / "in" / "0044.jpg", quality=90)  # a duplicate of the first
    steps = [{"kind": "probe"}, {"kind": "exact_dedup"}]
    build_dataset(write_spec(folder / "spec.yaml", {"kind": "folder", "path": "in"}, steps), quiet=True)
    forget(folder / "out", [f"{row:09d}" for row in REMOVED], "opt_out")
    return folder


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, compacted in its place."""
    out = tmp_path_factory.mktemp("done") / "out"
    shutil.copytree(base / "out", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "MIB", 1)  # each unit alone
        compact_dataset(out, shard_mib=1)
    return out


def facts(dataset: Dataset) -> dict[str, tuple[int, str, list[tuple[str, int, int]]]]:
    """What the index says of each sample that is not removed, but for where its parts lie."""
    masked = set(dataset.masked().tolist())
    rows = (dataset.row(at) for at in range(len(dataset)) if at not in masked)
    return {row.key: (row.row, row.origin, [(p.name, p.size, p.crc32c) for p in row.parts]) for row in rows}


def test_what_stays_is_unchanged_and_the_ledger_tells_of_the_rest(base: Path, done: Path) -> None:
    before, after = open_dataset(base / "out"), open_dataset(done)
    assert facts(after) == facts(before)
    assert len(after) == len(before) - len(REMOVED) == 31
    assert all(after[key] == before[key] for key in after.keys())  # noqa: SIM118 all bytes
    assert [after.row(at).signatures for at in range(3)] == [before.row(at).signatures for at in (0, 1, 4)]
    assert after.removals() == ()
    assert not (done / "tombstones").exists()
    assert verify_dataset(done).problems == []
    rows = ledger(done)
    assert [row.row for row in rows] == list(range(45))
    gone = [row for row in rows if row.reason == "forgotten"]
    assert [row.row for row in gone] == REMOVED
    assert all(row.state == "filtered" and row.detail.startswith("opt_out (20") for row in gone)
    assert [row.state for row in rows if row.row == 44] == ["duplicate"]
    old, new = before.manifest, after.manifest
    assert (new.generation, new.input_rows, new.spec_digest) == (1, old.input_rows, old.spec_digest)
    assert new.counts == {**old.counts, "ok": 31, "filtered": 13}
    assert sum(new.counts.values()) == new.input_rows
    assert [(e.unit, e.input_first, e.input_rows, e.rows) for e in new.shards] == [
        *((0, 0, 10, 8), (1, 10, 20, 9), (2, 30, 10, 10), (3, 40, 5, 4))
    ]
    assert new.shards[2].shard_sha256 == old.shards[3].shard_sha256  # it loses nothing
    size = sum(path.stat().st_size for path in (done / "shards").iterdir())
    assert size < sum(path.stat().st_size for path in (base / "out" / "shards").iterdir())


def test_again_there_is_nothing_to_do(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (done / "manifest.json").read_bytes()
    monkeypatch.setattr(compact, "MIB", 1)
    assert compact.main([str(done)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (done / "manifest.json").read_bytes() == before


def test_small_shards_are_put_together_elsewhere(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command, to a new folder: the dataset itself stays as it is, and a build goes on from the new one."""
    before = content(base / "out")
    assert compact.main([str(base / "out"), "--output", str(tmp_path / "new")]) == 0
    assert "13 removed samples are gone, 31 stay; 5 units are now 1; generation 1" in capsys.readouterr().out
    assert content(base / "out") == before
    new = open_dataset(tmp_path / "new")
    assert facts(new) == facts(open_dataset(base / "out"))
    assert [(e.input_first, e.input_rows, e.rows) for e in new.manifest.shards] == [(0, 45, 31)]
    assert verify_dataset(tmp_path / "new").problems == []
    assert compact.main([str(base / "out"), "--output", str(tmp_path / "new")]) == 2
    assert "there is something else" in capsys.readouterr().err
    shutil.copytree(base / "in", tmp_path / "in")
    picture(500).save(tmp_path / "in" / "zz.jpg")
    picture(1).save(tmp_path / "in" / "twin.jpg", quality=90)  # of a sample that stayed
    spec = tmp_path / "spec.yaml"
    spec.write_text((base / "spec.yaml").read_text())
    manifest = build_dataset(spec, [f"output.path={tmp_path / 'new'}"], append=True, quiet=True)
    assert (manifest.generation, manifest.input_rows, manifest.samples) == (2, 47, 32)
    assert verify_dataset(tmp_path / "new").problems == []


MOMENTS = [
    "mmdata.engine.commit.record",
    "mmdata.engine.recover.begin_publish",
    "mmdata.engine.compaction.publish",
    "mmdata.engine.commit.publish",
    "mmdata.compact.finish",
    "mmdata.engine.compaction.clean",
    "mmdata.engine.recover.end_publish",
]


@pytest.mark.parametrize("place", MOMENTS)
def test_every_moment_can_be_the_last(
    base: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(base / "out", out)

    def crash(*_: object, **__: object) -> None:
        raise KeyError(place)

    monkeypatch.setattr(compact, "MIB", 1)
    with monkeypatch.context() as patch:
        patch.setattr(place, crash)
        with pytest.raises(KeyError, match=place):
            compact_dataset(out, shard_mib=1)
    if (out / ".build" / "publish.json").exists():
        with pytest.raises(DataError, match="publish_interrupted"):
            open_dataset(out)
        with pytest.raises(RunError, match=r"mmdata\.compact` was interrupted while publishing"):
            build_dataset(base / "spec.yaml", [f"output.path={out}"], quiet=True)
    else:
        assert len(open_dataset(out)) == 44
        assert verify_dataset(out).problems == []
    compact_dataset(out, shard_mib=1)
    assert content(out) == content(done)
    assert manifests.read(out).root_digest == manifests.read(done).root_digest
    assert verify_dataset(out).problems == []
    assert not (out / ".build" / "compact").exists()


def test_who_has_it_open_and_who_goes_on_from_before_are_told(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(base / "out", out)
    reader = open_dataset(out)
    first = reader[0]
    stream = StreamingDataset(out, seed=1)
    state = stream.state_dict()
    compact_dataset(out)
    assert reader[0] == first  # its shard is open
    with pytest.raises(
        RunError, match=r"compacted or changed since it was opened \(generation 0 -> 1\); open it again"
    ):
        reader[40]
    again = StreamingDataset(out, seed=1)
    with pytest.raises(SpecError, match="5 shards -> 1; it was compacted or built anew"):
        again.load_state_dict(state)
    assert len({sample.key for sample in again}) == 31


def test_what_cannot_be_compacted_is_refused(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compact.main([str(tmp_path)]) == 2
    assert "not a dataset made by mmdata.build" in capsys.readouterr().err
    out = tmp_path / "out"
    shutil.copytree(base / "out", out)
    (out / ".build" / "append.json").write_text('{"generation": 1}')
    assert compact.main([str(out)]) == 1
    assert "an append has begun" in capsys.readouterr().err
