"""The command: a new folder, whole or not at all, without what has been removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmdata import export as module
from mmdata.export import export, main
from mmdata.forget import forget
from mmdata.index import index_tars
from mmdata.shards.dataset import open_dataset
from mmdata.types import Sample, Text
from tests.building import build, folder_of_pictures, write_spec
from tests.dataset_fixture import write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "d", samples=20, per_shard=8)


def test_removed_samples_are_left_out(folder: Path, tmp_path: Path) -> None:
    forget(folder, ["000000004"], "opt_out")
    for form in ("parquet", "mds"):
        assert main([str(folder), "--to", form, "--output", str(tmp_path / form), "--quiet"]) == 0
    shards = json.loads((tmp_path / "mds" / "index.json").read_bytes())["shards"]
    assert sum(shard["samples"] for shard in shards) == 19
    assert b"000000004" not in (tmp_path / "mds" / "shard.00000.mds").read_bytes()
    assert "19 samples of 20 input records" in (tmp_path / "parquet" / "README.md").read_text()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["--to", "mds"], "--to mds needs --output FOLDER"),
        (["--to", "mds", "--output", "{d}"], "exists; remove it"),
        (["--to", "mds", "--output", "{d}/x", "--split-by", "a"], "--split-by is for --to parquet"),
        (["--to", "energon", "--split-by", "a"], "takes no --output"),
    ],
)
def test_what_does_not_go_together(
    folder: Path, capsys: pytest.CaptureFixture[str], told: list[str], message: str
) -> None:
    assert main([str(folder), *(each.format(d=folder) for each in told)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_sample_stops_it_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = folder / "shards" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    assert main([str(folder), "--to", "parquet", "--output", str(tmp_path / "p"), "--quiet"]) == 2
    assert "crc" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_a_full_disk_is_one_clear_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "m"))

    monkeypatch.setattr(module.mds, "write", full)
    assert main([str(folder), "--to", "mds", "--output", str(tmp_path / "m"), "--quiet"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_copy_elsewhere_is_the_same(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    for source, name in ((folder, "a"), (moved, "b")):
        export(source, "mds", tmp_path / name)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]


def _said(sample: Sample) -> list[tuple[str | None, str | None]]:
    """Texts with their roles, and the hash of media in their places."""
    return [(part.role, part.text) if isinstance(part, Text) else ("", part.sha256) for part in sample.parts]


def test_captions_and_conversations_come_back_with_their_roles(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "pictures", 2, captions=False)
    one, two = "0000.jpg", "0001.jpg"
    image = {"type": "image"}
    asked = {"role": "user", "content": [image, {"type": "text", "text": "What?"}]}
    lines: list[dict[str, Any]] = [
        {"image": one, "text": "a caption"},
        {"image": two, "text": ["one caption", "another"]},
        {"image": [one, two], "text": None},
        {"image": one, "messages": [{"role": "system", "content": "S"}, asked, {"role": "assistant", "content": "A."}]},
        {"image": [one, two], "messages": [{"role": "document", "content": ["a", image, "b", image, "c"]}]},
        {"image": one, "messages": [asked], "good": "A fox.", "bad": "No."},
        {"image": [], "text": "a text alone"},
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "lines.jsonl"), "root": str(tmp_path / "pictures")}
    source["columns"] = {"chosen": "good", "rejected": "bad"}  # type: ignore[assignment]
    build(write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe", "digest": "sha256"}]))
    expected = [_said(sample) for sample in open_dataset(tmp_path / "out")]
    assert len(expected) == len(lines)
    table = export(tmp_path / "out", "parquet", tmp_path / "table")
    index_tars([str(table / "data")], tmp_path / "indexed", digest="sha256", quiet=True)
    assert [_said(sample) for sample in open_dataset(tmp_path / "indexed")] == expected
    (tmp_path / "again").mkdir()
    again = {"kind": "huggingface", "path": str(table)}
    build(write_spec(tmp_path / "again" / "spec.yaml", again, [{"kind": "probe", "digest": "sha256"}]))
    assert [_said(sample) for sample in open_dataset(tmp_path / "again" / "out")] == expected
