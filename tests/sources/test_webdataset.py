"""Others' tars as a source: webdataset's own writer, Energon's folders, damage, media read by place."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from mmdata.errors import SpecError
from mmdata.index import index_tars
from mmdata.shards.access import open_source
from mmdata.shards.foreign_tar import TarPass
from mmdata.sources.webdataset import WebDataset
from tests.building import ledger
from tests.dataset_fixture import jpeg
from tests.sources.run import built, records, states
from tests.test_index import add, write_tars


def write(path: Path, *samples: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def test_what_webdataset_reads_is_built_and_the_rest_is_in_the_ledger(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", count=2, each=2)
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Colours."}]
    write(
        tmp_path / "tars" / "set-001.tar",
        {"__key__": "talk", "jpg": jpeg(7)[0], "json": {"conversations": talk, "id": 7}},
        {"__key__": "spoilt", "jpg": b"no picture", "txt": "x"},
        {"__key__": "broken", "jpg": jpeg(8)[0], "json": b"{"},
        {"__key__": "alone", "cls": 3},
        {"__key__": "last", "jpg": jpeg(9)[0], "txt": "the last"},
    )
    source = {"kind": "webdataset", "path": str(tmp_path / "tars" / "set-{000..001}.tar")}
    dataset, rows = built(tmp_path / "out", source, [{"kind": "probe"}, {"kind": "min_side", "pixels": 16}])
    assert states(rows) == [
        *("ok", "ok", "ok"),
        "failed_permanent:not_an_image",
        "failed_permanent:bad_record",
        "failed_permanent:no_parts",
        "ok",
    ]
    theirs = {
        sample["__key__"]: sample
        for number in range(2)
        for sample in wds.WebDataset(str(tmp_path / "tars" / f"set-{number:03d}.tar"), shardshuffle=False)
    }
    for sample in dataset:
        their = theirs[sample.meta["__key__"]]
        assert sample.media[0].data == their["jpg"]
        if "txt" in their:
            assert sample.texts[0].text.encode() == their["txt"]
        assert {**json.loads(their.get("json", b"{}")), "__key__": their["__key__"]} == sample.meta
    talked = dataset["000000002"]
    assert [(text.role, text.text) for text in talked.texts] == [("user", "What?"), ("assistant", "Colours.")]
    assert talked.origin.uri == "set-001.tar"
    assert rows[2].uri == "set-001.tar#talk.jpg"
    found = records(source)
    assert all(media.data is None for record in found for media in record.sample.media), "read when it is wanted"


def test_of_media_only_headers_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tar", *({"__key__": f"{n}", "mp4": bytes(1 << 20), "txt": "t"} for n in range(8)))

    class Counted:
        def __init__(self) -> None:
            self.source, self.bytes = open_source(path), 0
            self.size, self.uri = self.source.size, self.source.uri

        def read(self, offset: int, size: int) -> bytes:
            self.bytes += size
            return self.source.read(offset, size)

    counted = Counted()
    members = list(TarPass(counted, wanted=lambda name, size: name.endswith("txt")).members())  # type: ignore[arg-type]
    with tarfile.open(path) as tar:
        assert [(m.name, m.offset, m.size) for m in members] == [(m.name, m.offset_data, m.size) for m in tar]
    assert [member.data for member in members] == [None, b"t"] * 8
    assert counted.bytes < 1 << 20


def test_damage_costs_what_lies_behind_it(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", count=2, each=3)
    path = tmp_path / "tars" / "set-000.tar"
    with tarfile.open(path) as tar:
        cut = [member.offset_data for member in tar if member.name.endswith("jpg")][2] + 5
    path.write_bytes(path.read_bytes()[:cut])
    found = records({"kind": "webdataset", "path": str(tmp_path / "tars")})
    assert [record.drop.reason if record.drop else "" for record in found] == ["", "shard_cut", "", "", ""]
    assert "set-000.tar" in (found[1].drop.detail if found[1].drop else "")


def test_an_energon_folder_gives_its_split_and_its_fields(tmp_path: Path) -> None:
    folder = tmp_path / "energon"
    write(
        folder / "a.tar", *({"__key__": f"{n}", "jpg": jpeg(n)[0], "json": {"q": "?", "a": f"{n}"}} for n in range(3))
    )
    write(folder / "b.tar", {"__key__": "b", "jpg": jpeg(5)[0], "json": {"q": "?"}})
    meta = folder / ".nv-meta"
    meta.mkdir()
    (meta / "split.yaml").write_text("split_parts: {train: ['{a,b}.tar'], val: []}\nexclude: ['a.tar/1']\n")
    (meta / "dataset.yaml").write_text("field_map: {image: jpg, context: 'json[q]', answers: 'json[a]'}\n")
    found = records({"kind": "webdataset", "path": str(folder)})
    assert [record.drop.reason if record.drop else "" for record in found] == ["", "excluded", "", "missing_field"]
    assert [text.text for text in found[2].sample.texts] == ["?", "2"]
    with pytest.raises(SpecError, match=r"no split 'test'"):
        WebDataset(path=str(folder), split="test").open()


def test_what_cannot_be_read_by_place_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        add(tar, "1.jpg", os.urandom(2000))
    (found,) = records({"kind": "webdataset", "path": str(tmp_path / "x.tar")})
    assert found.drop
    assert (found.drop.reason, "unpack it" in found.drop.detail) == ("compressed_tar", True)
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(SpecError, match=r"t\.parquet is a table.*huggingface"):
        WebDataset(path=str(tmp_path / "t.parquet")).open()
    with pytest.raises(SpecError, match="no tar or table there"):
        WebDataset(path=str(tmp_path / "none-{0..3}.tar")).open()


def test_a_list_that_is_no_conversation_is_meta_and_media_that_are_not_read_end_their_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    notes = [{"bbox": [0, 0, 1, 1]}]
    write(
        path,
        {"__key__": "a", "jpg": jpeg(1)[0], "json": json.dumps(notes).encode()},
        {"__key__": "b", "heic": b"x", "txt": "words"},
        {"__key__": "c", "jpe": jpeg(2)[0], "txt": "words"},
        {"__key__": "d", "mpg": b"no film", "txt": "words"},
    )
    dataset, found = built(tmp_path / "out", {"kind": "webdataset", "path": str(path)})
    assert states(found) == ["ok", *("failed_permanent:unsupported_format", "ok", "failed_permanent:not_a_video")]
    assert dataset[0].meta == {"json": notes, "__key__": "a"}
    assert [media.kind for media in dataset[1].media] == ["image"]
    index_tars([str(path)], tmp_path / "indexed", quiet=True)
    assert states(ledger(tmp_path / "indexed")) == states(found)
