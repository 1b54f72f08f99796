"""Publishing: whole or not at all, resumed after a break, never over something else."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from mmdata.errors import RunError, SpecError
from mmdata.export import main
from mmdata.forget import forget
from mmdata.outputs import push as module
from mmdata.outputs.push import push
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.verify import verify_dataset
from tests.building import build, folder_of_pictures, write_spec


def test_nothing_is_left_of_what_is_replaced(
    captions: Dataset, talks: Dataset, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tombstones removed samples of the other dataset, and its parts of a table counted; what is not ours stays."""
    system, root = fsspec.core.url_to_fs(url)
    stones = captions.path / "tombstones"
    forget(captions.path, ["000000000"], "opt_out")
    try:
        send(captions, url)
    finally:
        shutil.rmtree(stones)
    mine = ["data/mine.parquet", "mine.txt", "notes/mine.txt"]
    for name in ("data/train-00007-of-00009.parquet", "shard.00009.mds", "shards/g0003-000000.tar", *mine):
        system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{root}/{name}", b"x")
    put = module._put
    monkeypatch.setattr(module, "_put", lambda *_: (_ for _ in ()).throw(OSError("broken off")))
    with pytest.raises(RunError, match="broken off"):
        send(talks, url, replace=True)
    monkeypatch.setattr(module, "_put", put)
    send(talks, url)
    assert [name for name in names(url) if "mine" in name] == mine
    private = (".build", ".lock")
    files = [path.relative_to(talks.path).as_posix() for path in talks.path.rglob("*") if path.is_file()]
    expected = {name for name in files if not name.startswith(private)} | {*mine}
    assert set(names(url)) == expected
    assert not len(open_dataset(url).masked())


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid.uuid4()}/d" if request.param == "memory" else f"file://{tmp_path}/pushed/d"


def send(dataset: Dataset, url: str, *, digest: str | None = None, replace: bool = False) -> int:
    told: list[int] = []
    return push(
        dataset.path,
        url,
        digest=digest or dataset.manifest.root_digest,
        last="manifest.json",
        told=told.append,
        replace=replace,
    )


def names(url: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(url)
    return sorted(name.removeprefix(root).strip("/") for name in system.find(root))


def test_what_was_pushed_is_the_dataset(captions: Dataset, url: str) -> None:
    assert send(captions, url) > 3
    there = open_dataset(url)
    assert there.manifest == captions.manifest
    assert there[5].media[0].data == captions[5].media[0].data
    assert not any(name.startswith((".build", ".push")) for name in names(url))
    assert send(captions, url) == 0
    stones = captions.path / "tombstones"
    forget(captions.path, ["000000002"], "opt_out")
    try:
        assert send(captions, url) == 1
    finally:
        shutil.rmtree(stones)
    assert open_dataset(url).masked().tolist() == [2]
    if url.startswith("file"):
        assert verify_dataset(Path(url.removeprefix("file://"))).problems == []


def test_a_push_that_breaks_off_is_no_dataset_and_goes_on(
    captions: Dataset, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, sent = module._put, []

    def breaks(system: object, path: Path, target: str) -> None:
        if len(sent) == 3:
            raise ConnectionResetError("the line broke")
        sent.append(target)
        put(system, path, target)

    monkeypatch.setattr(module, "_put", breaks)
    with pytest.raises(RunError, match="the line broke; run it again"):
        send(captions, url)
    assert "manifest.json" not in names(url)
    assert module.MARK in names(url)
    with pytest.raises(SpecError, match="another dataset was broken off"):
        send(captions, url, digest="f" * 64)
    monkeypatch.setattr(module, "_put", put)
    total = len(names(url)) - 1
    assert total == 3
    assert send(captions, url) == len(names(url)) - 3
    assert open_dataset(url).manifest == captions.manifest


def test_another_dataset_is_not_overwritten(captions: Dataset, talks: Dataset, url: str) -> None:
    send(captions, url)
    with pytest.raises(SpecError, match="another dataset lies there"):
        send(talks, url)
    assert open_dataset(url).manifest == captions.manifest
    send(talks, url, replace=True)
    assert open_dataset(url).manifest == talks.manifest


def test_a_target_that_is_none_is_one_clear_line(
    captions: Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = [str(captions.path), "--to", "mds", "--output", str(tmp_path / "m"), "--quiet"]
    assert main([*told, "--push", "nothing://here"]) == 2
    assert "error: --push nothing://here: " in capsys.readouterr().err
    (tmp_path / "a_file").write_text("")
    assert main([*told[:-2], str(tmp_path / "n"), "--quiet", "--push", str(tmp_path / "a_file" / "d")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_build_pushes_what_it_made(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 3)
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}])
    target = tmp_path / "there"
    assert f"files to {target}" in build(spec, "--push", str(target)).stdout
    assert verify_dataset(target).problems == []
    assert f"{target} has it already" in build(spec, "--push", str(target)).stdout
    (tmp_path / "in" / "0001.jpg").unlink()
    other = build(spec, "--output", str(tmp_path / "other"), "--push", str(target), code=2)
    assert "another dataset lies there" in other.stderr
    build(spec, "--output", str(tmp_path / "other"), "--push", str(target), "--push-replace")
    assert open_dataset(str(target)).manifest.samples == 2
