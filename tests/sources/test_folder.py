"""Folders of images: in order of their paths, with the texts that lie beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.shards.dataset import open_dataset
from mmdata.sources.folder import Folder
from mmdata.spec import Record
from mmdata.types import Origin
from tests.building import build, folder_of_pictures, ledger, write_spec


def lay(folder: Path, files: dict[str, Any]) -> Path:
    """Files by name: bytes as they are, text as UTF-8, other values as JSON."""
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def records(folder: Path, **spec: Any) -> list[Record]:
    return list(Folder(path=str(folder), **spec).open().records())


def caption(record: Record) -> str | None:
    return record.sample.texts[0].text if record.sample.texts else None


def test_images_come_in_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b/1.png", "a.JPG", "a/2.jpeg", "a/10.webp", "Z.gif", "b.tar/x.tif", "é.bmp", "no image.txt", "b/1.svg"]
    found = records(lay(tmp_path, dict.fromkeys(names, "x")))
    expected = sorted(name for name in names if not name.endswith((".txt", ".svg")))
    assert [record.sample.origin for record in found] == [Origin(uri=name, row=0) for name in expected]
    assert [record.row for record in found] == list(range(7))
    assert [record.sample.key for record in found] == [f"{at:09d}" for at in range(7)]
    uris = [record.sample.media[0].uri or "" for record in found]
    assert [uri.removeprefix("file://") for uri in uris] == [f"{tmp_path}/{name}" for name in expected]
    assert Folder(path=str(tmp_path)).open().count() == 7


def test_extensions_are_the_users(tmp_path: Path) -> None:
    lay(tmp_path, dict.fromkeys(["a.jpg", "b.XYZ", "c.png"], "x"))
    assert [record.sample.origin.uri for record in records(tmp_path, extensions=("xyz", ".png"))] == ["b.XYZ", "c.png"]


def test_sidecars(tmp_path: Path) -> None:
    files = {
        "0.jpg": "x",
        "1.jpg": "x",
        "1.txt": "\ufeff  a text \n",
        "2.jpg": "x",
        "2.json": {"caption": "of the json", "text": "stays", "id": 3, "deep": {"a": [1, None]}},
        "3.jpg": "x",
        "3.json": {"text": "of its text"},
        "4.jpg": "x",
        "4.txt": "of the txt",
        "4.json": {"caption": "not this", "id": 4},
        "5.jpg": "x",
        "5.txt": b"caf\xe9",
        "6/a.jpg": "x",
        "6.txt": "not beside it",
        "7.jpg": "x",
        "7.txt": "",
        "8.v2.jpg": "x",
        "8.v2.txt": "two dots",
    }
    found = {record.sample.origin.uri: record for record in records(lay(tmp_path, files))}
    assert {name: caption(record) for name, record in found.items()} == {
        "0.jpg": None,
        "1.jpg": "a text",
        "2.jpg": "of the json",
        "3.jpg": "of its text",
        "4.jpg": "of the txt",
        "5.jpg": "caf�",
        "6/a.jpg": None,
        "7.jpg": "",
        "8.v2.jpg": "two dots",
    }
    assert found["2.jpg"].sample.meta == {"text": "stays", "id": 3, "deep": {"a": [1, None]}}
    assert found["4.jpg"].sample.meta == {"id": 4}
    assert all(record.drop is None for record in found.values())


@pytest.mark.parametrize("damage", ['{"caption": ', "[1]", "null", "[" * 100_000, b"\xff\xfe\x00", ""])
def test_a_damaged_sidecar_costs_its_image(tmp_path: Path, damage: str | bytes) -> None:
    lay(tmp_path, {"0.jpg": "x", "1.jpg": "x", "1.json": damage, "2.jpg": "x", "2.txt": "fine"})
    found = records(tmp_path)
    assert [record.drop is None for record in found] == [True, False, True]
    drop = found[1].drop
    assert drop
    assert (drop.reason, drop.state) == ("bad_record", "failed_permanent")
    assert drop.detail.startswith("1.json: ")


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 15), stop=st.one_of(st.none(), st.integers(0, 15)))
def test_start_and_stop_cut_the_full_listing(
    tmp_path_factory: pytest.TempPathFactory, start: int, stop: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / "eleven pictures"
    if not folder.exists():
        lay(folder, {f"{at}.jpg": "x" for at in range(11)} | {f"{at}.txt": f"{at}" for at in range(0, 11, 2)})
    source = Folder(path=str(folder)).open()
    full = list(source.records())
    assert len(full) == 11
    assert list(source.records(start, stop)) == full[start:stop]


def test_inputs_follow_the_files_not_their_place(tmp_path: Path) -> None:
    def inputs(name: str) -> list[dict[str, Any]]:
        return Folder(path=str(tmp_path / name)).open().inputs()

    lay(tmp_path / "a", {"0.jpg": "one", "0.txt": "a text", "sub/1.jpg": "two"})
    before = inputs("a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert inputs("b") == before
    changes: dict[str, Any] = {
        "longer image": {"0.jpg": "onex"},
        "longer caption": {"0.txt": "a text."},
        "new image": {"2.jpg": "three"},
        "new caption": {"sub/1.txt": "t"},
    }
    for name, files in changes.items():
        shutil.copytree(tmp_path / "a", tmp_path / name)
        lay(tmp_path / name, files)
        assert inputs(name) != before, name
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    (tmp_path / "moved" / "0.jpg").rename(tmp_path / "moved" / "1.jpg")
    assert inputs("moved") != before


def test_what_is_no_folder_of_images_is_one_clear_line(tmp_path: Path) -> None:
    lay(tmp_path, {"empty/notes.txt": "x", "file.jpg": "x"})
    with pytest.raises(DataError, match=r"source_empty: .*empty: no file ends in one of .*\.jpg"):
        Folder(path=str(tmp_path / "empty")).open()
    for name in ("file.jpg", "not there"):
        with pytest.raises(DataError, match=f"source_unreadable: .*{name}: not a folder"):
            Folder(path=str(tmp_path / name)).open()


def test_the_command_builds_what_lies_there(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 5)
    lay(tmp_path / "in", {"0001.json": "{broken", "0002.json": {"id": "two"}, "0003.jpg": "no picture", "x.txt": "x"})
    source = {"kind": "folder", "path": "in"}
    spec = write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}], engine={"workers": 1})
    build(spec)
    rows = ledger(tmp_path / "out")
    assert [(row.row, row.state) for row in rows] == [
        (0, "ok"),
        (1, "failed_permanent"),
        (2, "ok"),
        (3, "failed_permanent"),
        (4, "ok"),
    ]
    assert rows[1].reason == "bad_record"
    dataset = open_dataset(tmp_path / "out")
    assert dataset["000000002"].meta["id"] == "two"
    assert dataset["000000002"].texts[0].text == "a smooth field of colours, number 2"
    assert dataset["000000004"].media[0].data == (tmp_path / "in" / "0004.jpg").read_bytes()


def test_sidecar_suffixes_in_capitals_count_too(tmp_path: Path) -> None:
    lay(tmp_path, {"a.JPG": "x", "a.TXT": "upper", "b.jpg": "x", "b.TXT": "upper", "b.txt": "lower", "c.jpg": "x"})
    lay(tmp_path, {"c.Json": {"caption": "of the json"}})
    assert [caption(record) for record in records(tmp_path)] == ["upper", "lower", "of the json"]
