"""What `datasets` writes, as a source: saved folders, Parquet with media, paths and URLs, labels, damage, its hub."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, ClassLabel, Features, Image, List, Value

from mmdata.errors import DataError, SpecError
from mmdata.sources.huggingface import HuggingFace
from tests.dataset_fixture import jpeg
from tests.sources.run import built, records, states


def wav() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(1600) / 5).astype(np.float32), 16_000, format="WAV")
    return out.getvalue()


def rows(count: int) -> datasets.Dataset:
    """Pictures with captions and labels; the second is spoilt."""
    data = [b"spoilt" if number == 1 else jpeg(number)[0] for number in range(count)]
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": item, "path": f"{number}.jpg"} for number, item in enumerate(data)],
            "text": [f"words {number}" for number in range(count)],
            "label": [number % 2 for number in range(count)],
        },
        features=Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=["cat", "dog"])}),
    )


def test_a_saved_dataset_is_built_and_resumed(tmp_path: Path) -> None:
    saved = rows(7)
    datasets.DatasetDict({"train": saved, "val": rows(2)}).save_to_disk(tmp_path / "saved", num_shards={"train": 2})
    source = {"kind": "huggingface", "path": str(tmp_path / "saved")}
    dataset, found = built(tmp_path / "out", source)
    assert states(found) == ["ok", "failed_permanent:not_an_image", *["ok"] * 5]
    raw = saved.cast_column("image", Image(decode=False))
    for sample in dataset:
        theirs = raw[int(sample.key)]
        assert sample.media[0].data == theirs["image"]["bytes"]
        assert sample.media[0].uri == theirs["image"]["path"]
        assert (sample.texts[0].text, sample.meta) == (theirs["text"], {"label": ["cat", "dog"][theirs["label"]]})
    assert len(records({**source, "split": "val"})) == 2
    with pytest.raises(SpecError, match=r"source\.split: .* has no split 'test'; it has train, val"):
        HuggingFace(path=str(tmp_path / "saved"), split="test").open()


def test_parquet_rows_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").write_bytes(jpeg(1)[0])
    place: list[dict[str, Any] | None] = [
        {"bytes": jpeg(0)[0], "path": None},
        {"bytes": None, "path": "pictures/1.jpg"},
        {"bytes": None, "path": "../1.jpg"},
        {"bytes": None, "path": "pictures/none.jpg"},
        {"bytes": b"", "path": None},
        None,
    ]
    sounds = [{"bytes": wav(), "path": None} if number == 0 else None for number in range(6)]
    pages = [["a", None], *[None] * 5]
    features = Features(
        {"image": Image(), "sound": Audio(), "q": Value("string"), "a": Value("string"), "x": List(Value("string"))}
    )
    table = pa.table(
        {
            "image": pa.array(place, features.arrow_schema.field("image").type),
            "sound": pa.array(sounds, features.arrow_schema.field("sound").type),
            "q": ["what?"] * 6,
            "a": ["that", "this", "-", "-", "-", None],
            "x": pages,
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), path, row_group_size=2)
    source = {
        "kind": "huggingface",
        "path": str(path),
        "columns": {"text": ["q:user", "a:assistant"]},
    }
    dataset, found = built(tmp_path / "out", source)
    assert states(found) == [
        *("ok", "ok", "failed_permanent:path_escape", "failed_permanent:not_found", "failed_permanent:no_bytes"),
        "ok",
    ]
    first = dataset[0]
    assert [media.kind for media in first.media] == ["image", "audio"]
    assert [(text.role, text.text) for text in first.texts] == [("user", "what?"), ("assistant", "that")]
    assert dataset[1].media[0].data == jpeg(1)[0]
    assert [text.text for text in dataset[2].texts] == ["what?"]
    assert len(records(source)) == 6


def test_a_row_without_its_conversation_has_its_caption(tmp_path: Path) -> None:
    said = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    table = {"image": [jpeg(n)[0] for n in range(3)], "text": ["one", None, "three"]}
    pq.write_table(pa.table({**table, "messages": pa.array([None, talk, talk], said)}), tmp_path / "t.parquet")
    found = [record.sample for record in records({"kind": "huggingface", "path": str(tmp_path / "t.parquet")})]
    assert [[(text.role, text.text) for text in sample.texts] for sample in found] == [
        [("caption", "one")],
        *([("user", "q"), ("assistant", "a")],) * 2,
    ]
    assert [dict(sample.meta) for sample in found] == [{}, {"text": None}, {"text": "three"}]


def test_lists_of_captions_have_their_role(tmp_path: Path) -> None:
    table = pa.table({"image": [jpeg(0)[0]], "t": [["one", "two"]]})
    pq.write_table(table, tmp_path / "t.parquet")
    source = {"kind": "huggingface", "path": str(tmp_path / "t.parquet"), "columns": {"text": ["t:caption"]}}
    (record,) = records(source)
    assert [(text.role, text.text) for text in record.sample.texts] == [("caption", "one"), ("caption", "two")]


def test_a_damaged_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"image": [jpeg(n)[0] for n in range(6)], "text": ["t"] * 6})
    pq.write_table(table, path, row_group_size=2, compression="zstd", write_page_checksum=True)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    begin = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
    data[begin + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    found = records({"kind": "huggingface", "path": str(path)})
    assert [record.drop.reason if record.drop else "" for record in found] == [
        *("", ""),
        *("row_group_damaged", "row_group_damaged"),
        *("", ""),
    ]


def test_the_hubs_way_streams_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    rows(5).to_parquet(tmp_path / "repo" / "train-0.parquet")
    streamed = records({"kind": "huggingface", "hub": str(tmp_path / "repo")})
    local = records({"kind": "huggingface", "path": str(tmp_path / "repo")})
    assert [record.sample.parts for record in streamed] == [record.sample.parts for record in local]
    assert [media.data for record in streamed for media in record.sample.media] == [
        media.data for record in local for media in record.sample.media
    ]
    assert [record.sample.meta for record in streamed] == [record.sample.meta for record in local]


def test_without_a_network_the_hub_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(self: Any, name: str, **_: Any) -> Any:
        raise OSError(f"no route\nto the hub for {name}")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    begun = time.monotonic()
    with pytest.raises(DataError) as caught:
        HuggingFace(hub="nobody/nothing").open()
    told = str(caught.value)
    assert told.startswith("source_unreadable: source.hub: nobody/nothing: no route to the hub for nobody/nothing; ")
    assert "source.path" in told
    assert "\n" not in told
    assert time.monotonic() - begun < 10


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    for given in ({}, {"path": "x", "hub": "y"}):
        with pytest.raises(ValueError, match="give either path"):
            HuggingFace(**given)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "n.parquet")
    with pytest.raises(SpecError, match=r"n\.parquet: no column of media .* among n \(int64\)"):
        HuggingFace(path=str(tmp_path / "n.parquet")).open()
    (tmp_path / "0.tar").write_bytes(bytes(1024))
    with pytest.raises(SpecError, match=r"source\.kind: webdataset reads tars"):
        HuggingFace(path=str(tmp_path / "0.tar")).open()
