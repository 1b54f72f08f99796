"""Bytes leave a sample and come back to their places; what has none stays without."""

from __future__ import annotations

from dataclasses import replace

from mmdata.engine.blobs import OWN, give, take
from mmdata.types import Media, Origin, Sample, Stored, Text


def made(name: str, data: bytes | None) -> Stored:
    return Stored(digest=name * 8, name=name, format="uint8", data=data)


def test_every_byte_comes_back_to_its_place() -> None:
    both = Media(kind="image", data=b"own", height=3, width=4, made=(made("a", b"first"), made("b", b"second")))
    gone = Media(kind="video", data=None, made=(made("c", b"frames"),))
    sample = Sample(key="k", parts=(Text(text="t"), both, gone), origin=Origin(uri="", row=0))
    bare, blobs = take(sample)
    assert blobs == {(1, OWN): b"own", (1, 0): b"first", (1, 1): b"second", (2, 0): b"frames"}
    assert all(medium.data is None and all(one.data is None for one in medium.made) for medium in bare.media)
    assert bare.media[0].height == 3
    back = give(bare, blobs)
    assert [medium.data for medium in back.media] == [b"own", None]
    assert [one.data for medium in back.media for one in medium.made] == [b"first", b"second", b"frames"]
    assert back == sample
    assert give(bare, {slot: blob for slot, blob in blobs.items() if slot != (1, 1)}).media[0].made[1].data is None


def test_empty_bytes_are_bytes() -> None:
    sample = Sample(key="k", parts=(Media(kind="image", data=b""),), origin=Origin(uri="", row=0))
    bare, blobs = take(sample)
    assert blobs == {(0, OWN): b""}
    assert give(bare, blobs).media[0].data == b""
    assert take(replace(sample, parts=()))[1] == {}
