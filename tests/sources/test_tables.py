"""Tables as the web has them: every row is accounted for, and what one row holds never stops a build."""

from __future__ import annotations

import datetime
import gzip
import json
import lzma
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata.engine.commit import _meta_json
from mmdata.errors import DataError, SpecError
from mmdata.sources import _tables
from mmdata.sources.folder import Folder
from mmdata.sources.jsonl import Jsonl
from mmdata.sources.laion import Laion
from mmdata.spec import Record, SourceSpec

URLS, TEXTS = ["http://a/1", "http://a/2", None], ["x", "y", None]


def records(spec: SourceSpec) -> list[Record]:
    """All records, having passed what the rest of a build asks of them: JSON and UTF-8, numbered from 0."""
    source = spec.open()
    source.inputs()
    found = list(source.records())
    assert [record.row for record in found] == list(range(len(found)))
    for start in range(len(found)):
        assert list(source.records(start)) == found[start:]
    for record in found:
        _meta_json(record.sample, record.sample.media)
        texts = [text.text for text in record.sample.texts] + [media.uri or "" for media in record.sample.media]
        for text in (*texts, record.sample.origin.uri, record.drop.detail if record.drop else ""):
            text.encode()
    return found


def uris(found: list[Record]) -> list[str | None]:
    return [record.sample.media[0].uri if record.sample.media else None for record in found]


def reasons(found: list[Record]) -> list[str]:
    return [record.drop.reason if record.drop else "" for record in found]


def parquet(path: Path, columns: Any, **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def lines(path: Path, *values: str) -> str:
    path.write_text("".join(value + "\n" for value in values))
    return str(path)


def not_utf8(*values: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(values), [None, *pa.array(list(values)).buffers()[1:]])


def test_text_columns_of_every_arrow_type_read_alike(tmp_path: Path) -> None:
    plain = pa.array(URLS)
    for at, column in enumerate(
        [plain, plain.dictionary_encode(), plain.cast(pa.large_string()), plain.cast(pa.large_binary())]
    ):
        found = records(Laion(path=parquet(tmp_path / f"{at}.parquet", {"URL": column, "TEXT": TEXTS})))
        assert uris(found) == ["http://a/1", "http://a/2", ""]
        assert reasons(found) == ["", "", "bad_url"]


def test_texts_that_are_not_utf8_are_repaired(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"URL": URLS, "TEXT": not_utf8(b"good", b"\xff\xfebad", b"x")})
    found = records(Laion(path=path, where="startswith(TEXT, 'good') or contains(TEXT, 'bad')"))
    assert [record.sample.texts[0].text for record in found] == ["good", "\ufffd\ufffdbad", "x"]
    assert reasons(found) == ["", "", "where"]


def test_a_value_that_python_cannot_hold_costs_its_row(tmp_path: Path) -> None:
    days = pa.array([2**30, 2, 3], pa.int32()).cast(pa.date32())
    path = parquet(
        tmp_path / "a.parquet", {"URL": ["http://a/1", "http://a/2", "http://a/3"], "TEXT": TEXTS, "d": days}
    )
    found = records(Laion(path=path, meta=("d",)))
    assert reasons(found) == ["bad_record", "", ""]
    assert found[1].sample.meta["d"] == str(datetime.date(1970, 1, 3))


def test_a_needed_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(URLS), pa.array(TEXTS), pa.array(TEXTS)], names=["URL", "TEXT", "TEXT"])
    with pytest.raises(SpecError, match="2 columns 'TEXT'"):
        Laion(path=parquet(tmp_path / "a.parquet", table)).open()


def test_files_without_rows_among_others(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    nothing = pa.array([], pa.string())
    parquet(tmp_path / "a.parquet", {"URL": nothing, "TEXT": nothing})
    lines(tmp_path / "b.csv", "", "URL,TEXT")
    lines(tmp_path / "c.jsonl")
    lines(tmp_path / "deep" / "d.tsv", "URL\tTEXT", "http://a/1\tx")
    parquet(tmp_path / "e.parquet", {"URL": URLS, "TEXT": TEXTS})
    assert uris(records(Laion(path=str(tmp_path)))) == ["http://a/1", "http://a/1", "http://a/2", ""]


def test_jsonl_files_without_lines_among_others(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl")
    lines(tmp_path / "b.jsonl", '{"image": "1.jpg", "text": "x"}')
    assert uris(records(Jsonl(path=str(tmp_path)))) == [f"file://{tmp_path}/1.jpg"]
    lines(tmp_path / "b.jsonl", '{"picture": "1.jpg", "text": "x"}')
    with pytest.raises(SpecError, match=r"b.jsonl have no key 'image'"):
        Jsonl(path=str(tmp_path)).open()


DEEP = "[" * 900 + "]" * 900
LINES = (
    '{"URL": "http://a/0", "TEXT": "x", "image": "0", "text": "x", "n": NaN, "i": 1e999}',
    '{"URL": "http://a/1", "TEXT": "\\ud800", "image": "1", "text": "\\ud800", "\\udfff": "\\udfff"}',
    '{"URL": "http://a/2", "TEXT": "x", "image": "2", "text": "x", "n": ' + DEEP + "}",
    '{"URL": "http://a/3", "TEXT": "x", "image": "3", "text": "x", "n": ' + "9" * 5000 + "}",
    "[1]",
    "null",
    "not json",
    '{"URL": "http://a/7", "TEXT": "x", "image": "7", "text": "x"}',
)
EXPECTED = ["", "", *["bad_record"] * 5, ""]


def test_json_that_utf8_or_json_cannot_hold(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *LINES)
    assert reasons(records(Laion(path=path, meta=("n",)))) == EXPECTED
    found = records(Jsonl(path=path))
    assert reasons(found) == EXPECTED
    assert "n" not in found[0].sample.meta


def test_a_sidecar_and_a_name_that_cannot_be_stored(tmp_path: Path) -> None:
    for name in (b"a.jpg", b"b.jpg", b"\xff.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / "a.json").write_text('{"caption": "\\ud800", "n": NaN}')
    (tmp_path / "b.json").write_text(DEEP)
    assert reasons(records(Folder(path=str(tmp_path)))) == ["", "bad_record", "bad_record"]


def test_an_image_path_may_begin_with_two_dots_but_not_lead_out(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *(json.dumps({"image": name, "text": "x"}) for name in ("..a", "../a", "..")))
    assert reasons(records(Jsonl(path=path))) == ["", "path_escape", "path_escape"]


def test_a_line_too_long_costs_itself_and_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "LONGEST", 200)
    good = '{"URL": "http://a/1", "TEXT": "x"}'
    long = '{"URL": "http://a/2", "TEXT": "' + "y" * 1000 + '"}'
    assert reasons(records(Laion(path=lines(tmp_path / "a.jsonl", good, long, good)))) == ["", "bad_record", ""]
    path = lines(tmp_path / "a.csv", "URL,TEXT", "http://a/1,x", "http://a/2," + "y" * 1000, "http://a/3,z")
    assert reasons(records(Laion(path=path))) == ["", "bad_record", ""]


def test_damaged_compression_is_an_unreadable_source(tmp_path: Path) -> None:
    random.seed(1)
    rows = [json.dumps({"URL": f"http://a/{random.random()}", "TEXT": "x"}) for _ in range(2000)]
    data = "\n".join(rows).encode()
    zst = bytes(pa.compress(data, "zstd", asbytes=True))
    for suffix, packed in (("gz", gzip.compress(data)), ("xz", lzma.compress(data)), ("zst", zst)):
        path = tmp_path / f"a.jsonl.{suffix}"
        path.write_bytes(packed)
        assert len(records_from(path)) == 2000
        for bad in (
            packed[: len(packed) // 2],
            packed[:-20] + bytes(20),
            packed[:99] + bytes(99) + packed[198:] if suffix != "zst" else packed[:-1],  # pyarrow writes no checksum
            b"no",
        ):
            path.write_bytes(bad)
            with pytest.raises(DataError, match="source_unreadable"):
                records_from(path)


def records_from(path: Path) -> list[Record]:
    return list(Laion(path=str(path)).open().records())


def test_a_compression_that_cannot_be_read_is_not_taken_for_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd junk")
    with pytest.raises(DataError, match="source_unreadable"):
        records_from(tmp_path / "a.jsonl.zst")


def test_a_broken_link_is_an_unreadable_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="source_unreadable"):
        Laion(path=str(tmp_path)).open()


PEAK = """
import resource, sys
from mmdata.sources.laion import Laion
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in Laion(path=sys.argv[1]).open().records(stop=20_000))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_one_huge_row_group_is_streamed(tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(800)
    column = pa.array([f"http://a/{number}/{noise.hex()}" for number in range(100_000)])
    path = parquet(
        tmp_path / "a.parquet",
        {"URL": column, "TEXT": column},
        row_group_size=len(column),
        compression="none",
        use_dictionary=False,
    )
    assert Path(path).stat().st_size > 300 << 20
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True, timeout=60)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 20_000
    assert mebibytes < 150


def test_what_a_row_holds_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    rows = [{"URL": "http://a/1", "TEXT": "x", "WIDTH": 300, "tags": {"a": 1}}, {"URL": "http://a/2", "TEXT": "y"}]
    odd = {"URL": "http://a/3", "TEXT": "z", "WIDTH": "n/a", "HEIGHT": 1.5, "tags": {"b": 2}}
    alone = lines(tmp_path / "alone.jsonl", *map(json.dumps, rows))
    among = lines(tmp_path / "among.jsonl", *map(json.dumps, [*rows, odd]))
    found = [records(Laion(path=path, where="WIDTH > 1 or is_null(WIDTH)", meta=("tags",))) for path in (alone, among)]
    assert [record.sample.meta for record in found[0]] == [{"width": 300, "tags": {"a": 1}}, {"tags": None}]
    assert [record.sample.meta for record in found[1][:2]] == [record.sample.meta for record in found[0]]
    assert reasons(found[1]) == ["", "", "where"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_tables_of_windows_are_read_by_their_first_bytes(tmp_path: Path, encoding: str, suffix: str) -> None:
    def write(name: str, text: str) -> str:
        data = text.encode(encoding)
        (tmp_path / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
        return str(tmp_path / f"{name}{suffix}")

    table = write("t.tsv", "URL\tTEXT\r\nhttp://a/1\tKäse\r\n")
    line = write("l.jsonl", '{"image": "a.jpg", "text": "Käse"}\r\n')
    listed = write("l.json", '[{"image": "a.jpg", "text": "Käse"}]')
    for spec in (Laion(path=table), Jsonl(path=line), Jsonl(path=listed)):
        assert [record.sample.texts[0].text for record in records(spec)] == ["Käse"]


def test_a_quote_that_is_not_closed_says_which_lines_it_took(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.tsv", "URL\tTEXT", "http://a/1\tx", 'http://a/2\t"y', "http://a/3\tz", "http://a/4\tz")
    found = records(Laion(path=path))
    assert reasons(found) == ["", "bad_record"]
    assert found[1].drop
    assert "a quote that is opened in line 3 is not closed" in found[1].drop.detail
    path = lines(tmp_path / "u.tsv", "URL\tTEXT", '"http://a/2\ty', 'http://a/3"\tz\t', "http://a/4\tz")
    found = records(Laion(path=path))
    assert reasons(found) == ["bad_record", ""]
    assert found[0].drop
    assert "3 fields where the header has 2, in lines 2 to 3: is a quote not closed?" in found[0].drop.detail


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_delimited_row_that_is_not_utf8_is_told_where_it_is_asked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"a\nfox\ncaf\xe9\ncaf\xc3\xa9\n")
    (file,) = _tables.list_files(str(path), (suffix,))
    assert list(_tables.text_rows(file)) == [{"a": "fox"}, {"a": "caf\ufffd"}, {"a": "café"}]
    found = [value for _, value in _tables.rows_from(file)]
    assert found == [{"a": "fox"}, "not UTF-8: byte 0xe9 behind 3 character(s)", {"a": "café"}]
    assert isinstance(found[1], str)
    assert _tables.refused(found[1]).reason == "text_not_utf8"


@pytest.mark.parametrize("name", ["[2024] photos", "what?", "a*b"])
def test_signs_of_patterns_in_names_of_folders(tmp_path: Path, name: str) -> None:
    """What is there by that name is meant, whether the file is named or its folder."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.csv").write_text("a\n1\n")
    for path in (tmp_path / name / "a.csv", tmp_path / name):
        (file,) = _tables.list_files(str(path))
        assert file.name == "a.csv"
