"""Bytes of shards and indexes stay what they are: a rewrite of their writers must not change a dataset's digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mmdata.engine.commit import Kept, write_shard
from mmdata.shards import index as indexes
from mmdata.shards.index import Index
from mmdata.types import Media, Origin, Sample, Stored, Text

SHARD = "74e8246b8a72473ad300a1f57fd4ed9d8d78e13f71a3212d87a48dbea1f08b2e"
INDEX = "b67780f87faa1774398817d4dbaa5c6249e32049a27b4af2b9fa07347c7b1c0e"
PLAIN = "b447b9a086b856cec9af6c99768549328273d24cf2199b995fbcd70f9a546535"
EMPTY = "20db31bc2d97330e2c8c848b417276d25a386382dfcc906aaad9521b09fb31c8"


def image(number: int, **facts: object) -> Media:
    data = bytes(np.arange(number, number + 5000 * number, dtype=np.uint32).astype(np.uint8))
    common: dict[str, object] = {"format": "jpeg", "height": 48 + number, "width": 64, "mode": "RGB", "frames": 1}
    common |= {"uri": f"https://example.org/é/{number}.jpg", "sha256": hashlib.sha256(data).hexdigest()}
    return Media(kind="image", data=data, verified="full", **(common | facts))  # type: ignore[arg-type]


def kept() -> list[Kept]:
    """Every kind of part there is, with and without facts; of packet tables zlib decides the bytes, so none is here."""
    video = Media(
        kind="video", data=b"v" * 9000, format="mp4", height=36, width=64, frames=40, fps=29.97002997, seconds=1.335,
        sample_rate=48_000, channels=2, samples=64_080, marks={"scenes": (3, 9), "keys": (0,)},
        verified="header",
    )  # fmt: skip
    audio = Media(
        kind="audio", data=b"a" * 700, format="flac", seconds=1.0, sample_rate=16_000, channels=1, role="user"
    )
    made = Stored(digest="d" * 64, name="0a1b2c3d", format="uint8", alone=False, data=b"s" * 1234)
    alone = Stored(digest="e" * 64, name="0a1b2c3e", format="float16", alone=True, data=b"t" * 600)
    parts: list[tuple[Text | Media, ...]] = [
        (image(1), Text(text="a caption of one picture")),
        (image(2, uri=None, sha256=None, mode=None), Text(text='"quoted" \\ naïve 名前 \n', role="user", train=False)),
        (video, audio, Text(text="", role="assistant")),
        (Text(text="only text"), Text(text="and more", role="assistant")),
        (image(3, made=(made,)), image(4, made=(alone,)), Text(text="stored")),
        (image(0),),
    ]
    return [
        Kept(
            row=3 * number + 1,
            sample=Sample(
                key=f"k-{number:05d}",
                parts=each,
                meta={"n": number, "words": ["ü", None, 1.5]} if number % 2 else {},
                origin=Origin(uri="table/ö.parquet", row=number),
            ),
            signatures={"near_dup": bytes([number] * 8), "exact_dedup": b"\xff" * 32} if number in (0, 4) else {},
        )
        for number, each in enumerate(parts)
    ]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_shard_and_its_index_have_the_bytes_they_had(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", kept())
    assert shard.sha256 == SHARD == digest((tmp_path / "0.tar").read_bytes())
    data = indexes.to_bytes(shard.rows)
    (tmp_path / "0.arrow").write_bytes(data)
    assert [row.key for row in Index(tmp_path / "0.arrow").rows()] == [row.key for row in shard.rows]
    assert digest(data) == INDEX


def test_an_index_of_plain_rows_and_one_of_none(tmp_path: Path) -> None:
    plain = [item for item in kept() if not item.signatures and item.row in (4, 10)]
    assert digest(indexes.to_bytes(write_shard(tmp_path / "0.tar", plain).rows)) == PLAIN
    assert digest(indexes.to_bytes([])) == EMPTY
