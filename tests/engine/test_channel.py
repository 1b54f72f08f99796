from __future__ import annotations

import os
import socket
from dataclasses import fields

from mmdata.engine.channel import Channel, shared_memory
from mmdata.engine.worker import Job, Outcome
from mmdata.types import Drop, Media, Origin, Place, Sample, Stored, Text

ORIGIN = Origin(uri="o", row=0)


def _pair() -> tuple[Channel, Channel]:
    ours, theirs = socket.socketpair()
    memory = shared_memory()
    return Channel(ours.detach(), memory), Channel(theirs.detach(), os.dup(memory))


def _same(a: object, b: object) -> None:
    """Field by field: equality of media leaves some of them out."""
    assert type(a) is type(b)
    if isinstance(a, tuple):
        assert isinstance(b, tuple)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            _same(one, other)
    elif hasattr(a, "__dataclass_fields__"):
        for field in fields(a):  # type: ignore[arg-type]
            _same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b


def test_every_field_of_a_sample_arrives() -> None:
    made = Stored(
        digest="d" * 64, name="0123abcd", format="uint8", data=b"view" * 99, place=Place(offset=1, size=2, crc32c=3)
    )
    media = Media(
        kind="image",
        data=b"x" * 3_000_000,
        uri="http://a/b",
        format="jpeg",
        height=2,
        width=3,
        mode="RGB",
        made=(made,),
    )
    empty, absent = Media(kind="image", data=b""), Media(kind="video", uri="c", seconds=1.5)
    parts = (media, Text(text="ü", role="assistant", train=False), empty, absent)
    sample = Sample(key="k", parts=parts, meta={"a": [1, None]}, origin=Origin(uri="o", row=7))
    ours, theirs = _pair()
    for message in (
        Job(unit=3, sample=sample),
        Outcome(sample=sample, facts=absent, signatures={1: {"s": b"\x00"}}),
        Outcome(drop=Drop(reason="aspect")),
    ):
        ours.send(message)
        _same(theirs.receive(), message)
    ours.close()
    theirs.close()


def test_a_second_question_leaves_the_first_answer_alone() -> None:
    ours, theirs = socket.socketpair()
    areas = [shared_memory(), shared_memory()]
    a, b = Channel(ours.detach(), *areas), Channel(theirs.detach(), *map(os.dup, areas))

    def outcome(byte: bytes) -> Outcome:
        return Outcome(sample=Sample(key="k", parts=(Media(kind="image", data=byte * 2_000_000),), origin=ORIGIN))

    a.send(outcome(b"1"), 0)
    _same(b.receive(), outcome(b"1"))
    b.send(outcome(b"2"), b.area)
    a.send(outcome(b"3"), 1)
    _same(a.receive(), outcome(b"2"))
    assert a.area == 0
    _same(b.receive(), outcome(b"3"))
    assert b.area == 1
    a.close()
    b.close()


def test_bytes_go_past_the_socket() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), shared_memory())
    media = Media(kind="image", data=b"x" * 1_000_000)
    channel.send(Job(unit=0, sample=Sample(key="k", parts=(media,), origin=Origin(uri="o", row=0))))
    theirs.settimeout(1)
    assert len(theirs.recv(1 << 20)) < 2_000
    channel.close()
    theirs.close()
