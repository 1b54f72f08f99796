"""Adopting `datasets`' Parquet and Arrow files in place: what is read is what `datasets` reads, damage is told."""

from __future__ import annotations

import glob
import io
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata import StreamingDataset, ledger
from mmdata.errors import DataError, SpecError
from mmdata.index import index_tars
from mmdata.shards.dataset import open_dataset
from mmdata.sources._shard_files import shard_files
from mmdata.types import Sample
from mmdata.verify import verify_dataset
from tests.dataset_fixture import jpeg

FEATURES = datasets.Features(
    {"image": datasets.Image(), "text": datasets.Value("string"), "n": datasets.Value("int64")}
)


def theirs(count: int) -> datasets.Dataset:
    made = [jpeg(number) for number in range(count)]
    images = [{"bytes": data[0], "path": None} for data in made]
    rows = {"image": images, "text": [data[1] for data in made], "n": list(range(count))}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_what_datasets_wrote_is_read_as_it_reads_it(tmp_path: Path, form: str) -> None:
    written = theirs(9)
    if form == "parquet":
        written.to_parquet(tmp_path / "train.parquet", batch_size=4)
        source = str(tmp_path / "train.parquet")
    else:
        written.save_to_disk(tmp_path / "saved")
        (source,) = glob.glob(str(tmp_path / "saved" / "*.arrow"))
    index_tars([source], tmp_path / "d", quiet=True)
    dataset = open_dataset(tmp_path / "d")
    bare = written.cast_column("image", datasets.Image(decode=False))
    assert len(dataset) == len(bare) == 9
    for sample, row, raw in zip(dataset, bare, dataset.iter_raw(range(9), view=True), strict=True):
        assert sample.media[0].data == row["image"]["bytes"] == raw[1]["image"]
        assert (sample.texts[0].text, sample.meta) == (row["text"], {"n": row["n"]})
    assert verify_dataset(tmp_path / "d").problems == []
    streamed = [sample for sample in StreamingDataset(tmp_path / "d", seed=1) if isinstance(sample, Sample)]
    assert sorted(sample.key for sample in streamed) == dataset.keys()


def test_odd_rows_are_in_the_ledger_and_a_changed_file_is_told(tmp_path: Path) -> None:
    images = [jpeg(0)[0], None, b"<html>gone</html>", jpeg(1)[0]]
    path = tmp_path / "t.parquet"
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": ["a", "b", "c", ""]})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    index_tars([str(path)], tmp_path / "d", quiet=True)
    found = [row for name in (tmp_path / "d" / "ledger").iterdir() for row in ledger.read_rows(name)]
    assert [row.reason for row in found] == ["", "", "html_not_image", ""]
    data = path.read_bytes()
    at = data.index(images[3] or b"") + 50
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(DataError, match="part_crc32c"):
        open_dataset(tmp_path / "d")[2]
    assert verify_dataset(tmp_path / "d").problems


def test_columns_that_cannot_be_told_are_listed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(SpecError, match=r"a \(int64\), b \(double\)"):
        index_tars([str(tmp_path / "t.parquet")], tmp_path / "d", quiet=True)


def test_two_tables_of_one_name_are_refused_not_dropped_as_duplicates(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / folder / "0.parquet")
    with pytest.raises(SpecError, match="two tables named 0"):
        index_tars([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "d", quiet=True)


def test_tables_beside_tars_are_not_samples(tmp_path: Path) -> None:
    """img2dataset writes what it knows of a tar into a Parquet file beside it."""
    folder = tmp_path / "both"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"text"))
    pq.write_table(pa.table({"url": ["http://x/a.jpg"], "caption": ["text"]}), folder / "00000.parquet")
    assert [found.uri for found in shard_files(str(folder), "train")] == [str(folder / "00000.tar")]
