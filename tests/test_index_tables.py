"""Tables through every door: media of each kind, nulls, conversations, damage, remote files, streams, kills."""

from __future__ import annotations

import glob
import json
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import datasets
import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from mmdata import StreamingDataset, StreamLoader, explain
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, RunError
from mmdata.families import get_family
from mmdata.index import index_tars, main
from mmdata.shards.cache import Cache
from mmdata.shards.dataset import open_dataset
from mmdata.shards.rows import RowSource, offset_of, open_shard
from mmdata.stream.spec import StreamSpec
from mmdata.testing.server import FaultServer
from mmdata.types import Packed, Sample, Text
from mmdata.verify import verify_dataset
from tests.dataset_fixture import jpeg
from tests.decode.clips import clip
from tests.test_index import fates
from tests.test_media_stream import tone
from tests.tokenizer_fixture import small_tokenizer

BYTES = pa.struct({"bytes": pa.binary(), "path": pa.string()})
PICTURES = [jpeg(number)[0] for number in range(6)]
SOUND = tone(0.05, 16_000)


def said(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else {"bytes": data, "path": None}


def adopt(folder: Path, table: pa.Table, *options: str, rows: int = 1 << 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "t.parquet", row_group_size=rows)
    assert main([str(folder / "t.parquet"), "--output", str(folder / "d"), "--quiet", *options]) == 0
    assert verify_dataset(folder / "d").problems == []
    return folder / "d"


def shape(sample: Sample) -> list[Any]:
    return [(part.role, part.text) if isinstance(part, Text) else part.data for part in sample.parts]


def test_pictures_sounds_and_films_of_datasets_are_read_as_it_reads_them(tmp_path: Path) -> None:
    film = clip(frames=6, rate=Fraction(5))
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "photo": datasets.Image(),
            "views": datasets.List(datasets.Image()),
            "speech": datasets.Audio(),
            "film": datasets.Video(),
            "caption": datasets.Value("string"),
        }
    )
    rows = [
        {"photo": PICTURES[0], "views": [PICTURES[1], PICTURES[2]], "speech": None, "film": None, "caption": "a"},
        {"photo": None, "views": [], "speech": SOUND, "film": None, "caption": ""},
        {"photo": None, "views": None, "speech": None, "film": film, "caption": None},
        {"photo": None, "views": None, "speech": None, "film": None, "caption": "only text"},
        {"photo": None, "views": None, "speech": None, "film": None, "caption": None},
    ]
    values = {name: [row[name] if name == "caption" else _said(row[name]) for row in rows] for name in rows[0]} | {
        "id": [f"id-{number}" for number in range(5)]
    }
    written = datasets.Dataset.from_dict(values, features=features)
    written.to_parquet(tmp_path / "t.parquet")
    index_tars([str(tmp_path / "t.parquet")], tmp_path / "d", quiet=True)
    bare = written
    for name, kind in (("photo", datasets.Image), ("speech", datasets.Audio), ("film", datasets.Video)):
        bare = bare.cast_column(name, kind(decode=False))
    dataset = open_dataset(tmp_path / "d")
    for sample, row, raw in zip(dataset, bare, rows, strict=False):
        theirs = [row[name]["bytes"] for name in ("photo", "speech", "film") if row[name]]
        theirs[1:1] = raw["views"] or []
        assert [medium.data for medium in sample.media] == theirs
        assert [text.text for text in sample.texts] == ([row["caption"]] if row["caption"] else [])
        assert sample.meta == {"id": row["id"]}
    assert [medium.kind for sample in dataset for medium in sample.media] == ["image"] * 3 + ["audio", "video"]
    assert dataset[1].media[0].samples == 800
    assert dataset[2].media[0].frames == 6
    assert [fate[2] for fate in fates(tmp_path / "d")] == ["", "", "", "", "no_parts"]
    index_tars([str(tmp_path / "t.parquet")], tmp_path / "k", naming=_keyed("id"), quiet=True)
    assert open_dataset(tmp_path / "k").keys() == ["id-0", "id-1", "id-2", "id-3"]


def _said(value: Any) -> Any:
    return [said(item) for item in value] if isinstance(value, list) else said(value)


def _keyed(name: str) -> Any:
    from mmdata.sources._naming import Naming

    return Naming(key=name)


def test_options_name_the_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "front": pa.array([PICTURES[0], PICTURES[1]], pa.binary()),
            "back": pa.array([PICTURES[2], None], pa.large_binary()),
            "ask": ["What?", "Where is <image>?"],
            "say": ["A fox.", "There."],
            "n": [7, 8],
        }
    )
    options = ["--image-column", "back", "--image-column", "front", "--text-column", "ask:user"]
    folder = adopt(tmp_path, table, *options, "--text-column", "say:assistant", "--key-column", "n")
    dataset = open_dataset(folder)
    assert dataset.keys() == ["7", "8"]
    assert shape(dataset["7"]) == [PICTURES[2], PICTURES[0], ("user", "What?"), ("assistant", "A fox.")]
    assert shape(dataset["8"]) == [("user", "Where is "), PICTURES[1], ("user", "?"), ("assistant", "There.")]
    assert main([str(tmp_path / "t.parquet"), "--output", str(folder), "--quiet", "--key-column", "n"]) == 2
    assert (folder / "report.html").stat().st_size > 1000


def test_keys_that_are_none_are_told(tmp_path: Path) -> None:
    table = pa.table({"text": list("abcd"), "k": ["x", None, "x", "../up"]})
    folder = adopt(tmp_path, table, "--key-column", "k")
    assert [fate[2] for fate in fates(folder)] == ["", "no_key", "duplicate_key", "member_name"]


TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}]
MESSAGES = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A fox."}]},
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conversations", TALK),
        ("conversations", json.dumps(TALK)),
        ("conversations", {"from": ["human", "gpt"], "value": ["<image>\nWhat?", "A fox."]}),
        ("messages", [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A fox."}]),
        ("messages", MESSAGES),
        ("texts", [{"user": "What?", "assistant": "A fox.", "source": "x"}]),
    ],
)
def test_conversations_are_read_in_all_their_forms(tmp_path: Path, name: str, value: Any) -> None:
    table = pa.table({"images": pa.array([[said(PICTURES[0])], []], pa.list_(BYTES)), name: [value, value]})
    folder = adopt(tmp_path, table)
    assert shape(open_dataset(folder)[0]) == [PICTURES[0], ("user", "What?"), ("assistant", "A fox.")]
    tagged = name != "texts"  # whose turns have no place for the picture: it may be missing
    assert [fate[2] for fate in fates(folder)] == ["", "bad_record" if tagged else ""]


def test_pages_keep_the_order_of_pictures_and_texts(tmp_path: Path) -> None:
    images = [[None, said(PICTURES[0]), None, said(PICTURES[1])], [said(PICTURES[2])]]
    table = pa.table({"images": pa.array(images, pa.list_(BYTES)), "texts": [["Look:", None, "and", None], ["a", "b"]]})
    dataset = open_dataset(adopt(tmp_path, table))
    assert shape(dataset[0]) == [("document", "Look:"), PICTURES[0], ("document", "and"), PICTURES[1]]
    assert shape(dataset[1]) == [PICTURES[2], ("caption", "a"), ("caption", "b")]


def test_addresses_and_paths_are_not_media(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "https://example.com/a.jpg"}, {"bytes": None, "path": "a.jpg"}, said(b""), None]
    table = pa.table({"image": pa.array(images, BYTES), "caption": list("abcd")})
    reasons = ["url_without_bytes", "path_without_bytes", "no_bytes", ""]
    assert [fate[2] for fate in fates(adopt(tmp_path / "a", table))] == reasons
    table = pa.table({"image_url": ["http://x/a.jpg", None], "caption": ["a", "b"]})
    assert [fate[2] for fate in fates(adopt(tmp_path / "b", table))] == ["url_without_bytes", ""]


parts = st.fixed_dictionaries(
    {
        "image": st.none() | st.integers(0, 5),
        "images": st.none() | st.lists(st.none() | st.integers(0, 5), max_size=3),
        "audio": st.booleans(),
        "text": st.none() | st.sampled_from(["", "a", "<image>", "\u00fc\u0000"]),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(parts, min_size=1, max_size=5), arrow=st.booleans(), group=st.integers(1, 5))
def test_a_row_is_kept_with_what_it_has(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], arrow: bool, group: int
) -> None:
    folder = tmp_path_factory.mktemp("nulls")
    pick = [None if row["images"] is None else [_picture(at) for at in row["images"]] for row in rows]
    table = pa.table(
        {
            "image": pa.array([_picture(row["image"]) for row in rows], BYTES),
            "images": pa.array(pick, pa.list_(BYTES)),
            "audio": pa.array([SOUND if row["audio"] else None for row in rows], pa.binary()),
            "text": pa.array([row["text"] for row in rows], pa.string()),
        }
    )
    path = folder / f"t.{'arrow' if arrow else 'parquet'}"
    if arrow:
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table, max_chunksize=group)
    else:
        pq.write_table(table, path, row_group_size=group)
    index_tars([str(path)], folder / "d", quiet=True)
    expected = []
    for row in rows:
        have = [PICTURES[at] for at in [row["image"], *(row["images"] or ())] if at is not None]
        have += [SOUND] if row["audio"] else []
        expected.append([*have, *([("caption", row["text"])] if row["text"] else [])])
    assert [shape(sample) for sample in open_dataset(folder / "d")] == [found for found in expected if found]
    assert [fate[2] for fate in fates(folder / "d")] == ["" if found else "no_parts" for found in expected]


def _picture(at: int | None) -> Any:
    return None if at is None else said(PICTURES[at])


def pictures(count: int) -> pa.Table:
    made = [jpeg(number) for number in range(count)]
    return pa.table({"image": pa.array([said(each[0]) for each in made], BYTES), "text": [each[1] for each in made]})


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    pq.write_table(pictures(9), tmp_path / "t.parquet", row_group_size=3, compression="zstd", write_page_checksum=True)
    chunk = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(1).column(0)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    at = begin + chunk.total_compressed_size // 2
    data[at : at + 64] = bytes(64)
    (tmp_path / "t.parquet").write_bytes(data)
    index_tars([str(tmp_path / "t.parquet")], tmp_path / "d", quiet=True)
    assert [fate[2] for fate in fates(tmp_path / "d")] == [""] * 3 + ["row_group_damaged"] * 3 + [""] * 3
    dataset = open_dataset(tmp_path / "d")
    assert [sample.media[0].data for sample in dataset] == [jpeg(number)[0] for number in (0, 1, 2, 6, 7, 8)]
    assert dataset.manifest.input_rows == 9


@pytest.mark.parametrize("form", ["stream", "file", "parquet"])
def test_a_table_cut_before_it_is_adopted_or_after(tmp_path: Path, form: str) -> None:
    table, path = pictures(9), tmp_path / f"t.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=3)
    else:
        with (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    index_tars([str(path)], tmp_path / "cut", quiet=True)
    found = [fate[2] for fate in fates(tmp_path / "cut")]
    assert found in ([["shard_table"]] if form != "stream" else [[""] * 3 + ["shard_cut"], [""] * 6 + ["shard_cut"]])
    path.write_bytes(whole)
    index_tars([str(path)], tmp_path / "d", quiet=True)
    opened = open_dataset(tmp_path / "d")
    assert opened[8].media[0].data == jpeg(8)[0]
    path.write_bytes(whole[: len(whole) * 2 // 3])
    for dataset in (open_dataset(tmp_path / "d"), *([opened] if form != "parquet" else [])):
        with pytest.raises(DataError, match=r"shard_cut|shard_table"):
            dataset[8]
    spec = StreamSpec.model_validate({"dataset": str(tmp_path / "d"), "failures": {"consecutive": 100, "rate": 1.0}})
    stream = StreamingDataset(spec)
    taken = [sample for sample in stream if isinstance(sample, Sample)]
    assert len(taken) + sum(stream.bad.values()) == 9
    assert all(sample.media[0].height for sample in taken)


def test_arrow_files_are_mapped_not_read(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(1 << 20)
    table = pa.table({"image": pa.array([said(data)] * 32, BYTES)})
    for form in (pa.ipc.new_stream, pa.ipc.new_file):
        with form(tmp_path / "t.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=8)
        before = pa.total_allocated_bytes()
        source = open_shard(str(tmp_path / "t.arrow"))
        assert source.read(offset_of(31, 0, 0), len(data)) == data
        assert pa.total_allocated_bytes() - before < 1 << 20


def test_rows_beyond_four_millions_are_told_apart(tmp_path: Path) -> None:
    count = 5_000_000
    array = pa.array(np.arange(count)).cast(pa.string()).cast(pa.binary())
    pq.write_table(pa.table({"image": array}), tmp_path / "t.parquet", compression="none", row_group_size=1 << 20)
    source = open_shard(str(tmp_path / "t.parquet"))
    assert isinstance(source, RowSource)
    for row in (0, 4_194_303, 4_194_304, count - 1):
        assert source.read(offset_of(row, 0, 0), len(str(row))) == str(row).encode()
    with pytest.raises(DataError, match="shard_cut"):
        source.read(offset_of(count, 0, 0), 1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.usefixtures("quick")
def test_remote_tables_are_cached_tried_again_and_stop_the_run(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = tmp_path / "served"
    theirs.mkdir()
    if form == "parquet":
        pq.write_table(pictures(4), theirs / "t.parquet", row_group_size=2)
    else:
        with pa.ipc.new_stream(theirs / "t.arrow", pictures(4).schema) as writer:
            writer.write_table(pictures(4))
    flaky = [{"status": 503, "times": 1}, {"instead": "reset", "times": 1}, {"file": f"t.{form}"}]
    paths = {f"/t.{form}": flaky, f"/down.{form}": {"status": 500}}
    with FaultServer(theirs, {"origins": {"main": {"paths": paths}}}) as server:
        with pytest.raises(RunError, match="failed 4 times"):
            open_shard(f"{server.url}/down.{form}", cache=Cache(tmp_path / "c", 1 << 30))
        index_tars([f"{server.url}/t.{form}"], tmp_path / "d", quiet=True)
        dataset = open_dataset(tmp_path / "d", cache=Cache(tmp_path / "c", 1 << 30))
        for _ in range(2):
            assert [sample.media[0].data for sample in dataset] == [jpeg(number)[0] for number in range(4)]
        before = len(server.log())
        again = open_dataset(tmp_path / "d", cache=Cache(tmp_path / "c", 1 << 30))
        assert again[3].media[0].data == jpeg(3)[0]
        assert len(server.log()) == before
        (kept,) = [path for path in (tmp_path / "c").iterdir() if path.is_file() and path.stat().st_size > 10_000]
        if form == "parquet":  # a file of the cache that is spoilt behind its back
            data = bytearray(kept.read_bytes())
            at = data.index(jpeg(3)[0][-64:])
            data[at : at + 32] = bytes(32)
            kept.write_bytes(data)
            spoilt = open_dataset(tmp_path / "d", cache=Cache(tmp_path / "c", 1 << 30))
            assert spoilt[3].media[0].data == jpeg(3)[0]
            assert len(server.log()) > before


def test_tables_behind_other_urls_are_found_by_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pq.write_table(pictures(3), tmp_path / "t.parquet")
    fsspec.filesystem("memory").pipe_file("/tables/t-0.parquet", (tmp_path / "t.parquet").read_bytes())
    index_tars(["memory://tables/*.parquet"], tmp_path / "d", quiet=True)
    assert [sample.media[0].data for sample in open_dataset(tmp_path / "d")] == [jpeg(number)[0] for number in range(3)]
    fsspec.filesystem("memory").rm("/tables", recursive=True)


def test_a_family_streams_packs_of_a_table_and_goes_on_exactly(tmp_path: Path) -> None:
    table = pictures(24).append_column("n", pa.array(range(24)))
    folder = adopt(tmp_path, table, rows=5)
    family = get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})

    def loader() -> StreamLoader:
        stream = StreamingDataset(folder, family=family, max_length=128, seed=5)
        return StreamLoader(stream, PackedCollator())

    whole = [batch["keys"] for batch in loader()]
    assert sorted(key for keys in whole for key in _flat(keys)) == open_dataset(folder).keys()
    first = loader()
    taken = [batch["keys"] for _, batch in zip(range(2), first, strict=False)]
    state = first.state_dict()
    later = loader()
    later.load_state_dict(state)
    assert taken + [batch["keys"] for batch in later] == whole
    packs = [
        pack for pack in StreamingDataset(folder, family=family, max_length=128, seed=5) if isinstance(pack, Packed)
    ]
    assert not any(pack.masked for pack in packs)
    facts = explain.step(StreamingDataset(folder, family=family, max_length=128, seed=5), 1)
    origins = {each["key"]: each["origin"] for pack in facts["packs"] for each in pack["samples"]}
    assert origins == {key: {"uri": str(tmp_path / "t.parquet"), "row": int(key[-9:])} for key in _flat(whole[1])}
    raw = {sample.key: sample for sample in StreamingDataset(folder, yields="bytes")}
    assert {key: bytes(sample.parts["image"]) for key, sample in raw.items()} == {  # type: ignore[union-attr]
        sample.key: sample.media[0].data for sample in open_dataset(folder)
    }


def _flat(keys: Any) -> list[str]:
    return [key for item in keys for key in ([item] if isinstance(item, str) else _flat(item))]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for number in range(10):
        pq.write_table(pictures(10), tmp_path / "t" / f"{number}.parquet", row_group_size=4)
    index_tars([str(tmp_path / "t")], tmp_path / "whole", quiet=True)
    command = [sys.executable, "-m", "mmdata.index", str(tmp_path / "t"), "--output", str(tmp_path / "d"), "--quiet"]
    units = tmp_path / "d" / ".build" / "units"
    for wanted in (4,):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not units.is_dir() or len(list(units.glob("*.json"))) < wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False, timeout=120, stdout=subprocess.DEVNULL).returncode == 0
    for path in glob.glob(str(tmp_path / "whole" / "index" / "*")):
        assert (tmp_path / "d" / "index" / Path(path).name).read_bytes() == Path(path).read_bytes()
    assert open_dataset(tmp_path / "d").manifest.root_digest == open_dataset(tmp_path / "whole").manifest.root_digest
    assert verify_dataset(tmp_path / "d").problems == []
