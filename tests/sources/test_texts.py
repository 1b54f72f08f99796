"""Captions that are texts, lists of them, or none: never what Python writes of a list."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata.sources import _texts
from mmdata.sources.folder import Folder
from mmdata.sources.jsonl import Jsonl
from mmdata.sources.laion import Laion
from mmdata.sources.video import Video
from mmdata.spec import SourceSpec


def outline(spec: SourceSpec) -> list[list[str] | str]:
    found = spec.open().records()
    return [record.drop.reason if record.drop else [text.text for text in record.sample.texts] for record in found]


def test_each_text_of_a_list_is_one_and_an_object_is_none(tmp_path: Path) -> None:
    values = ["a", ["b", None, "c"], [], {"en": "d"}, [["e"]], 7, None, "\ud800"]
    expected = [["a"], ["b", "c"], [], "bad_record", "bad_record", ["7"], [], ["?"]]

    def lines(name: str, key: str) -> str:
        rows = [{"URL": "http://a/b", "image": "a.jpg", "video": "a.mp4", key: value} for value in values]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    assert outline(Jsonl(path=lines("j.jsonl", "text"))) == expected
    assert outline(Laion(path=lines("l.jsonl", "TEXT"))) == expected
    assert outline(Video(path=lines("v.jsonl", "caption"))) == expected
    for at, value in enumerate(values):
        (tmp_path / f"{at}.jpg").write_bytes(b"x")
        (tmp_path / f"{at}.json").write_text(json.dumps({"caption": value}))
    assert outline(Folder(path=str(tmp_path))) == expected


def test_columns_of_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["http://a/b"] * 2, "TEXT": [["a", "b"], None]}), tmp_path / "t.parquet")
    assert outline(Laion(path=str(tmp_path / "t.parquet"))) == [["a", "b"], []]


def test_bytes_are_read_as_utf8() -> None:
    assert [text.text for text in _texts.captions(["Käse".encode(), b"\xff"], "c")] == ["Käse", "\ufffd"]
    with pytest.raises(ValueError, match=r"c: a text, or a list of texts, is wanted, not \{\}"):
        _texts.captions({}, "c")


def test_a_sidecar_of_windows_is_read_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.txt").write_bytes("Käse\r\n".encode("utf-16"))
    assert outline(Folder(path=str(tmp_path))) == [["Käse"]]
