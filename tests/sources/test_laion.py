"""LAION-style tables: every row once and in order, in every format, from any row on."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.sources import _tables
from mmdata.sources._tables import BATCH
from mmdata.sources.laion import Laion, LaionColumns
from mmdata.spec import Record, Source
from mmdata.types import Origin
from tests.building import build, folder_of_pictures, ledger, write_spec
from tests.sources.tables import FORMATS, Row, write


def rows(count: int, first: int = 0) -> list[Row]:
    return [
        {
            "URL": f"https://example.org/{number}.jpg",
            "TEXT": f"caption, number {number}",
            "WIDTH": None if number % 5 == 4 else 40 * (number % 7),
            "HEIGHT": 100 + number,
            "similarity": 0.05 * (number % 11),
            "LICENSE": "cc-by" if number % 2 else "unknown",
            "extra": number,
        }
        for number in range(first, first + count)
    ]


def records(path: Path, **spec: Any) -> list[Record]:
    return list(Laion(path=str(path), **spec).open().records())


def outline(found: list[Record]) -> list[tuple[int, str, str, str | None]]:
    return [
        (
            record.row,
            record.sample.media[0].uri or "" if record.sample.media else "",
            record.sample.texts[0].text if record.sample.texts else "",
            record.drop.reason if record.drop else None,
        )
        for record in found
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    given_rows = rows(30)
    found = records(write(tmp_path / f"links.{suffix}", given_rows))
    assert outline(found) == [(at, row["URL"], row["TEXT"], None) for at, row in enumerate(given_rows)]
    assert [record.sample.key for record in found] == [f"{at:09d}" for at in range(30)]
    assert [record.sample.origin for record in found] == [Origin(uri=f"links.{suffix}", row=at) for at in range(30)]
    for record, row in zip(found, given_rows, strict=True):
        meta = record.sample.meta
        assert ("width" in meta) == (row["WIDTH"] is not None), "a null is absent"
        assert row["WIDTH"] is None or int(meta["width"]) == row["WIDTH"]
        assert float(meta["similarity"]) == row["similarity"]
        assert meta["license"] == row["LICENSE"]
        assert "extra" not in meta, "columns that nobody asked for stay where they are"


def test_files_are_numbered_through_in_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.parquet", rows(8, 20))
    write(tmp_path / "a.csv", rows(11, 0))
    write(tmp_path / "b" / "0.jsonl", rows(9, 11))
    (tmp_path / "readme.txt").write_text("not a table")
    (tmp_path / ".hidden.csv").write_text("not for us")
    found = records(tmp_path)
    assert [uri for _, uri, _, _ in outline(found)] == [row["URL"] for row in rows(28)]
    assert [record.row for record in found] == list(range(28))
    assert Counter(record.sample.origin.uri for record in found) == {"a.csv": 11, "b/0.jsonl": 9, "b/1.parquet": 8}
    assert found[11].sample.origin.row == 0
    globbed = records(tmp_path / "b" / "*.parquet")
    assert [uri for _, uri, _, _ in outline(globbed)] == [row["URL"] for row in rows(8, 20)]


SMALL = 16


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Source, list[Record]]]:
    """Files of every format, one of them of three batches and with broken lines: the source and all its records."""
    patch = pytest.MonkeyPatch()
    patch.setattr(_tables, "BATCH", SMALL)  # three batches in few rows
    folder = tmp_path_factory.mktemp("mixed")
    write(folder / "0.parquet", rows(40))
    write(folder / "1.tsv", rows(13, 40))
    write(folder / "2.parquet", rows(1, 53))
    long = write(folder / "3.jsonl", rows(2 * SMALL + 10, 54))
    lines = long.read_text().splitlines()
    for at in (0, 5, SMALL - 1, SMALL, 2 * SMALL + 9):
        lines[at] = lines[at][:20]
    long.write_text("\n".join(lines) + "\n")
    write(folder / "4.parquet", rows(25, 54 + 2 * SMALL + 10), group=4)
    source = Laion(path=str(folder), where="WIDTH > 100", meta=("extra",)).open()
    yield source, list(source.records())
    patch.undo()


TOTAL = 54 + 2 * SMALL + 10 + 25
EDGES = [0, 1, 6, 7, 40, 53, 54, 54 + SMALL, 54 + 2 * SMALL, TOTAL - 25, TOTAL - 1, TOTAL, TOTAL + 5]
ROWS = st.one_of(st.sampled_from(EDGES), st.integers(0, TOTAL))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=ROWS, stop=st.one_of(st.none(), ROWS))
def test_start_and_stop_cut_the_full_listing(mixed: tuple[Source, list[Record]], start: int, stop: int | None) -> None:
    source, full = mixed
    assert len(full) == TOTAL
    assert list(source.records(start, stop)) == full[start:stop]


def test_broken_lines_cost_themselves(mixed: tuple[Source, list[Record]]) -> None:
    _, full = mixed
    broken = [record.row - 54 for record in full if record.drop and record.drop.reason == "bad_record"]
    assert broken == [0, 5, SMALL - 1, SMALL, 2 * SMALL + 9]
    assert [record.row for record in full] == list(range(TOTAL))


@pytest.mark.parametrize("suffix", FORMATS)
def test_where_drops_what_it_drops_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    given_rows = rows(60)
    wanted = [row["WIDTH"] is not None and row["WIDTH"] >= 120 and row["LICENSE"] == "cc-by" for row in given_rows]
    where = 'WIDTH >= 120 and LICENSE == "cc-by"'
    found = records(write(tmp_path / f"links.{suffix}", given_rows), where=where)
    assert [record.drop is None for record in found] == wanted
    assert 5 < sum(wanted) < 55
    drops = [record.drop for record in found if record.drop]
    assert {(drop.reason, drop.state, drop.detail) for drop in drops} == {("where", "filtered", where)}
    everything = records(tmp_path / f"links.{suffix}")
    assert [record.sample for record in found] == [record.sample for record in everything], "a filter moves no key"


def test_where_may_use_a_column_that_is_not_carried(tmp_path: Path) -> None:
    found = records(write(tmp_path / "links.parquet", rows(20)), where="extra % 3 == 0")
    assert [record.row for record in found if record.drop is None] == list(range(0, 20, 3))
    assert all("extra" not in record.sample.meta for record in found)


def test_column_names_are_the_users(tmp_path: Path) -> None:
    table = [{"link": "https://example.org/a.jpg", "alt": "a cat", "w": 7, "WIDTH": 9, "TEXT": "not this"}]
    columns = LaionColumns(url="link", text="alt", width="w")
    (found,) = records(write(tmp_path / "links.parquet", table), columns=columns)
    assert outline([found]) == [(0, "https://example.org/a.jpg", "a cat", None)]
    assert found.sample.meta == {"width": 7}


def test_missing_columns_are_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", rows(3))
    write(tmp_path / "1.csv", [{"url": "a", "TEXTS": "b"}])
    spec = Laion(path=str(tmp_path), where="HEIGTH > 3", meta=("extras",), columns=LaionColumns(nsfw="NFSW"))
    with pytest.raises(SpecError) as caught:
        spec.open()
    message = str(caught.value)
    assert f"source.columns.url: {tmp_path}/1.csv has no column 'URL'; did you mean 'url'?" in message
    assert f"source.columns.text: {tmp_path}/1.csv has no column 'TEXT'; did you mean 'TEXTS'?" in message
    assert f"source.where (HEIGTH): {tmp_path}/0.parquet has no column 'HEIGTH'; did you mean 'HEIGHT'?" in message
    assert f"source.meta[0]: {tmp_path}/0.parquet has no column 'extras'; did you mean 'extra'?" in message
    assert f"source.columns.nsfw: {tmp_path}/0.parquet has no column 'NFSW'" in message
    assert "its columns: url, TEXTS" in message
    assert len(message.splitlines()) == 3 + 5


def test_named_columns_travel(tmp_path: Path) -> None:
    found = records(write(tmp_path / "links.parquet", rows(4)), meta=("extra",))
    assert [record.sample.meta["extra"] for record in found] == [0, 1, 2, 3]


def test_what_is_no_number_is_absent(tmp_path: Path) -> None:
    table = rows(4)
    for row, value in zip(table, (0.5, math.nan, math.inf, None), strict=True):
        row["similarity"] = row["score"] = value
    found = records(write(tmp_path / "links.parquet", table), meta=("score",))
    assert [record.sample.meta.get("similarity") for record in found] == [0.5, None, None, None]
    assert ["similarity" in record.sample.meta for record in found] == [True, False, False, False]
    assert [record.sample.meta.get("score") for record in found] == [0.5, None, None, None]
    kept = records(tmp_path / "links.parquet", where="similarity > 0")
    assert [record.drop is None for record in kept] == [True, False, True, False], "NaN is null, infinity is large"


def test_empty_urls_and_texts(tmp_path: Path) -> None:
    table = [
        {"URL": url, "TEXT": text}
        for url, text in (("", "a"), (None, "b"), ("  ", "c"), (" http://a/u ", None), ("http://a/v", ""))
    ]
    found = records(write(tmp_path / "links.parquet", table))
    assert outline(found) == [
        (0, "", "a", "bad_url"),
        (1, "", "b", "bad_url"),
        (2, "", "c", "bad_url"),
        (3, "http://a/u", "", None),
        (4, "http://a/v", "", None),
    ]
    assert [len(record.sample.texts) for record in found] == [1, 1, 1, 0, 1]
    assert {record.drop.state for record in found if record.drop} == {"failed_permanent"}


def test_a_resumed_build_sees_the_values_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """A loose column is typed batch by batch; reading from a later row on must not move the batches."""
    table = rows(BATCH + 50)
    for row in table:
        row["loose"] = row["extra"]
    table[3]["loose"] = "three"
    table[BATCH + 40]["loose"] = ["a", "list"]
    source = Laion(path=str(write(tmp_path / "links.jsonl", table)), meta=("loose",)).open()
    full = list(source.records())
    for start in (2, 10, BATCH - 1, BATCH, BATCH + 1, BATCH + 45):
        assert list(source.records(start)) == full[start:]


def test_count_is_known_for_parquet_only(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", rows(12))
    write(tmp_path / "1.parquet", rows(5))
    assert Laion(path=str(tmp_path)).open().count() == 17
    write(tmp_path / "2.csv", rows(1))
    assert Laion(path=str(tmp_path)).open().count() is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_inputs_follow_the_files_not_their_place(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "here" / f"0.{suffix}", rows(10))
    write(tmp_path / "here" / f"1.{suffix}", rows(10, 10))

    def inputs(folder: str) -> list[dict[str, Any]]:
        return Laion(path=str(tmp_path / folder)).open().inputs()

    before = inputs("here")
    assert [entry["name"] for entry in before] == [f"0.{suffix}", f"1.{suffix}"]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert inputs("there") == before
    changed = rows(10, 10)
    changed[9]["TEXT"] = "caption, number 91"  # as long as before
    write(tmp_path / "there" / f"1.{suffix}", changed)
    after = inputs("there")
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_an_end_beyond_the_first_mebibyte_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "links.csv", rows(BATCH * 8))
    assert path.stat().st_size > 2 << 20
    before = Laion(path=str(path)).open().inputs()
    with path.open("r+b") as stream:
        stream.seek(-3, 2)
        stream.write(b"7")
    assert Laion(path=str(path)).open().inputs() != before


def test_inputs_that_are_none_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"source_empty: .*empty: no parquet, csv, tsv, jsonl file there"):
        Laion(path=str(tmp_path / "empty")).open()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is none PAR1")
    with pytest.raises(DataError, match=r"source_unreadable: bad\.parquet: not a readable parquet file"):
        Laion(path=str(tmp_path / "bad.parquet")).open()
    (tmp_path / "notes.txt").write_text("URL,TEXT\n")
    with pytest.raises(DataError, match="source_format"):
        Laion(path=str(tmp_path / "notes.txt")).open()
    (tmp_path / "nothing.csv").write_text("")
    with pytest.raises(DataError, match=r"nothing\.csv: no header line"):
        Laion(path=str(tmp_path / "nothing.csv")).open()
    (tmp_path / "twice.csv").write_text("URL,TEXT,URL\na,b,c\n")
    with pytest.raises(DataError, match=r"twice\.csv: the header names a column twice"):
        Laion(path=str(tmp_path / "twice.csv")).open()


def test_a_damaged_row_group_stops_the_reading_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "links.parquet", rows(4000), group=1000)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    source = Laion(path=str(path)).open()
    with pytest.raises(DataError, match=r"source_unreadable: links\.parquet: row group \d"):
        list(source.records())


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_damaged_line_of_a_delimited_file_costs_its_row(tmp_path: Path, suffix: str, delimiter: str) -> None:
    lines = ["URL|TEXT", "http://a/0|t0", "u1|t1|more", "u2", 'http://a/3|"a | and ""b"""', "", "http://a/4|t4"]
    text = "\r\n".join(lines).replace("|", delimiter)
    (tmp_path / f"links.{suffix}").write_bytes(
        b"\xef\xbb\xbf" + text.encode() + b"\nhttp://a/\xff5" + delimiter.encode() + b"t5"
    )
    found = records(tmp_path / f"links.{suffix}")
    assert outline(found) == [
        (0, "http://a/0", "t0", None),
        (1, "", "", "bad_record"),
        (2, "", "", "bad_record"),
        (3, "http://a/3", f'a {delimiter} and "b"', None),
        (4, "http://a/4", "t4", None),
        (5, "http://a/�5", "t5", None),
    ]
    drop = found[1].drop
    assert drop
    assert (drop.state, drop.detail) == ("failed_permanent", f"links.{suffix} row 1: 3 fields where the header has 2")


def test_cut_compression_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "links.csv.gz", rows(2000))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"source_unreadable: links\.csv\.gz"):
        list(Laion(path=str(path)).open().records())


def test_a_table_names_no_file_of_ours_unless_told_so(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "pictures", 3, captions=False)
    places = [
        f"{tmp_path}/pictures/0000.jpg",
        f"file://{tmp_path}/pictures/0001.jpg",
        "FILE:///etc/passwd",
        "ftp://a/b",
    ]
    table = [{"URL": place, "TEXT": "a picture", "WIDTH": at} for at, place in enumerate(places)]
    write(tmp_path / "links.csv", table)
    refused = records(tmp_path / "links.csv")
    assert [record.drop and record.drop.reason for record in refused] == ["bad_url", "bad_scheme", "bad_scheme", None]
    source = {"kind": "laion", "path": "links.csv", "local_files": True, "where": "WIDTH < 2"}
    build(write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}], engine={"workers": 1}))
    assert [(row.row, row.state, row.reason) for row in ledger(tmp_path / "out")] == [
        (0, "ok", ""),
        (1, "ok", ""),
        (2, "filtered", "where"),
        (3, "filtered", "where"),
    ]
    dataset = open_dataset(tmp_path / "out")
    assert dataset["000000001"].media[0].data == (tmp_path / "pictures" / "0001.jpg").read_bytes()
    assert dataset["000000001"].meta["width"] == "1"
