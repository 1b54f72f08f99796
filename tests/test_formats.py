"""Files of another version are refused in one line that says what to do, and are left as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdata import StreamingDataset, open_dataset
from mmdata.errors import DataError, SpecError
from mmdata.shards import manifest as manifests
from mmdata.stream import state
from mmtrain import checkpoint_folder
from tests.dataset_fixture import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("formats") / "dataset", samples=4)


@pytest.mark.parametrize(("by", "remedy"), [(1, "newer mmdata: update"), (-1, "remove it and run the same build")])
def test_a_manifest_of_another_version(folder: Path, by: int, remedy: str) -> None:
    path = folder / "manifest.json"
    before = path.read_bytes()
    body = json.loads(before)
    # A later version may have fields that nobody here knows.
    path.write_text(json.dumps({**body, "version": manifests.VERSION + by, "later": [1]}))
    try:
        with pytest.raises(DataError, match=remedy) as caught:
            open_dataset(folder)
        assert caught.value.reason == "manifest_version"
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(("by", "remedy"), [(1, "update mmdata"), (-1, "go on with mmdata 0.0.9")])
def test_a_state_of_another_version(folder: Path, by: int, remedy: str) -> None:
    stream = StreamingDataset(str(folder))
    saved = {**stream.state_dict(), "version": state.VERSION + by, "code": "0.0.9", "later": 1}
    with pytest.raises(SpecError, match=remedy) as caught:
        stream.load_state_dict(saved)
    assert caught.value.reason == "state_version"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("by", "remedy"), [(1, "update mmdata"), (-1, "--resume never")])
def test_a_checkpoint_of_another_version_is_not_put_aside(tmp_path: Path, by: int, remedy: str) -> None:
    """As damaged it would be renamed, and the run would go on from an older one."""
    for step in (1, 2):
        saved = tmp_path / checkpoint_folder.FOLDER / f"step-{step:08d}"
        saved.mkdir(parents=True)
        checkpoint_folder.write_info(saved, {"files": {}})
    info = saved / checkpoint_folder.INFO
    body = json.loads(info.read_text())
    info.write_text(json.dumps({**body, "version": checkpoint_folder.VERSION + by}))
    with pytest.raises(SpecError, match=remedy) as caught:
        checkpoint_folder.newest(tmp_path)
    assert caught.value.reason == checkpoint_folder.OTHER_VERSION
    assert saved.is_dir()
    assert len(checkpoint_folder.found(tmp_path)) == 2
