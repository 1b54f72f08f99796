"""Facts of media by the thousand: the same as one sample at a time says, whatever the samples are made of."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata import ledger, rng
from mmdata.errors import DataError
from mmdata.shards import index as indexes
from mmdata.shards import manifest as manifests
from mmdata.shards import packet_table
from mmdata.shards.columns import KEPT
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.types import Media, Packets
from tests.dataset_fixture import write_dataset

TABLE = packet_table.to_bytes(Packets(time_base=(1, 10), pts=np.arange(3), flags=np.ones(3, np.uint8)))
SIDES = st.sampled_from([64, 64, 80, 336])

texts = st.builds(dict, name=st.just("txt"), kind=st.just("text"), role=st.just("caption"), train=st.booleans())
images = st.builds(
    dict,
    name=st.sampled_from(["jpg", "jpg", "jpg", ""]),
    kind=st.just("image"),
    format=st.sampled_from(["jpeg", "png", None]),
    height=SIDES,
    width=SIDES,
    mode=st.sampled_from([None, "RGB", "L"]),
    role=st.sampled_from([None, "user"]),
    verified=st.sampled_from([None, "full", "header"]),
    sha256=st.text("0123456789abcdef", min_size=4, max_size=4),
)
videos = st.builds(
    dict,
    name=st.just("mp4"),
    kind=st.just("video"),
    frames=st.integers(1, 3),
    fps=st.sampled_from([None, 25.0, 0.0]),
    packets=st.sampled_from([None, TABLE]),
    marks=st.sampled_from([None, [("scenes", [1])]]),
)
sounds = st.builds(
    dict, name=st.just("wav"), kind=st.just("audio"), samples=st.integers(0, 2), seconds=st.sampled_from([None, 0.5])
)
stored = st.builds(dict, name=st.just("0123abcd.arrow"), kind=st.just("stored"), format=st.just("uint8"))
media = st.one_of(images, images, videos, sounds)
samples = st.lists(st.one_of(texts, media.map(lambda one: [one]), st.tuples(media, stored).map(list)), max_size=4)


def write_index(folder: Path, shards: list[list[IndexRow]]) -> Path:
    """A dataset of indexes: whatever its rows say, its tars are empty."""
    for name in ("shards", "index"):
        (folder / name).mkdir(parents=True)
    entries: list[ShardEntry] = []
    for unit, rows in enumerate(shards):
        data = indexes.to_bytes(rows)
        (folder / f"index/{unit:06d}.arrow").write_bytes(data)
        (folder / f"shards/{unit:06d}.tar").write_bytes(b"")
        first = entries[-1].first + entries[-1].rows if entries else 0
        entries.append(
            ShardEntry(
                unit=unit,
                first=first,
                rows=len(rows),
                input_first=first,
                input_rows=len(rows),
                shard=f"shards/{unit:06d}.tar",
                index=f"index/{unit:06d}.arrow",
                index_sha256=hashlib.sha256(data).hexdigest(),
                index_crc32c=int(crc32c.crc32c(data)),
                ledger=f"ledger/{unit:06d}.parquet",
                ledger_sha256="00" * 32,
            )
        )
    total = sum(map(len, shards))
    values = {"created_by": "tests", "spec": {}, "spec_digest": "", "inputs": [], "reasons": {}}
    manifests.write(
        folder,
        Manifest(
            **values,
            input_rows=total,
            samples=total,
            counts={**ledger.counts([]), "ok": total},
            shards=entries,
            root_digest=manifests.root_digest(entries),
        ),
    )
    return folder


def index_row(number: int, parts: list[dict[str, object] | list[dict[str, object]]]) -> IndexRow:
    flat = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    made = tuple(Part(offset=512, size=9, crc32c=number, **one) for one in flat)  # type: ignore[arg-type]
    return IndexRow(key=f"k{number}", row=number, origin="x", origin_row=number, parts=made)


def slowly(dataset: Dataset, position: int) -> tuple[Media, ...]:
    """The facts of one sample by its index row, part by part."""
    found: list[Media] = []
    for part in dataset.row(position).parts:
        if part.kind == "stored":
            found[-1] = replace(found[-1], made=(*found[-1].made, part.to_stored(None)))
        elif part.kind != "text":
            one = part.to_part(None)
            assert isinstance(one, Media)
            found.append(one)
    return tuple(found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(samples, min_size=1, max_size=12), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_facts_of_many_are_the_facts_of_each(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[list[dict[str, object]]]], random: object
) -> None:
    numbers = iter(range(10**6))
    rows = [[index_row(next(numbers), sample) for sample in shard] for shard in shards]  # type: ignore[arg-type]
    dataset = open_dataset(write_index(tmp_path_factory.mktemp("facts") / "d", rows))
    positions = [*range(len(dataset)), *range(len(dataset))]
    random.shuffle(positions)  # type: ignore[attr-defined]
    found = dataset.media_at(np.array(positions))
    for position, many in zip(positions, found, strict=True):
        one = slowly(dataset, position)
        assert [replace(m, uri=None, sha256=None) for m in one] == [replace(m, uri=None, sha256=None) for m in many]
        assert [m.place is None for m in one] == [m.place is None for m in many]
        assert [(m.packets is None, m.made) for m in one] == [(m.packets is None, m.made) for m in many]
    assert dataset.keys_at(np.array(positions)) == [f"k{position}" for position in positions]


def test_equal_facts_are_one_object_also_across_shards(tmp_path: Path) -> None:
    image = {"name": "jpg", "kind": "image", "format": "jpeg", "height": 4, "width": 6}
    dataset = open_dataset(
        write_index(tmp_path / "d", [[index_row(3 * s + n, [image, image])] * 1 for s in range(2) for n in range(2)])
    )
    found = [medium for media in dataset.media_at(np.arange(len(dataset))) for medium in media]
    assert len(found) == 8
    assert all(medium is found[0] for medium in found)
    assert found[0].place == KEPT
    with pytest.raises(DataError, match="part_crc32c"):
        dataset.read(0, KEPT)


def test_shards_are_counted_and_positions_are_checked(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "d", samples=43, per_shard=16))
    assert dataset.shard_rows.tolist() == [16, 16, 11]
    assert dataset.shard_firsts.tolist() == [0, 16, 32, 43]
    assert dataset.media_at(np.array([], np.int64)) == []
    assert dataset.keys_at([42, 0]) == ["000000042", "000000000"]  # type: ignore[arg-type]
    for wrong in ([43], [-1]):
        with pytest.raises(IndexError):
            dataset.media_at(np.array(wrong))


def test_a_changed_fact_is_not_told(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", samples=20, per_shard=20)
    truth = open_dataset(folder).media_at(np.arange(20))
    path = folder / "index" / "000000.arrow"
    data = path.read_bytes()
    draw = rng.generator("flip")
    for _ in range(80):
        at = int(draw.integers(len(data)))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << int(draw.integers(8))]) + data[at + 1 :])
        with pytest.raises(DataError, match="index_"):
            open_dataset(folder).media_at(np.arange(20))
    path.write_bytes(data)
    assert open_dataset(folder).media_at(np.arange(20)) == truth
