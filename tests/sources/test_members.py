"""Which members of a tar are one sample is tested against webdataset itself; here, what their names may be."""

from __future__ import annotations

import json

import pytest

from mmdata.errors import DataError
from mmdata.shards.foreign_tar import ForeignMember
from mmdata.sources._members import Group, groups, odd, parts
from mmdata.types import Media, Text


def member(name: str, data: bytes | None = b"x") -> ForeignMember:
    return ForeignMember(name=name, offset=0, size=len(data or b""), data=data)


def test_neighbours_of_a_key_are_a_sample_up_to_the_first_dot() -> None:
    names = ["./a/1.left.jpg", "./a/1.right.JPG", "./a/1.txt", "a.b/1.jpg", "__meta.json", "nodot", "a/1.jpg", ".x.jpg"]
    found = [(group.key, list(group.members)) for group in groups(map(member, names))]
    assert found == [("a/1", ["left.jpg", "right.jpg", "txt"]), ("a.b/1", ["jpg"]), ("a/1", ["jpg"])]


def test_a_member_that_is_there_twice_refuses_its_sample() -> None:
    (group,) = groups([member("1.jpg"), member("1.JPG")])
    assert group.drop
    assert (group.drop.reason, group.drop.state) == ("duplicate_member", "failed_permanent")


@pytest.mark.parametrize(("key", "wrong"), [("a/b-1", False), ("/a", True), ("a/../b", True), ("a\n", True)])
def test_keys_that_would_make_odd_file_names_are_told(key: str, wrong: bool) -> None:
    assert bool(odd(key)) == wrong


def test_media_need_no_bytes_to_be_told() -> None:
    group = Group(
        "k", {"jpg": member("k.jpg", None), "txt": member("k.txt", b"words"), "json": member("k.json", b"{}")}
    )
    assert parts(group) == ([Media(kind="image", uri="jpg"), "txt"], True)
    talk = b'[{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "That."}]'
    group.members["json"] = member("k.json", talk)
    found, meta = parts(group)
    assert [part.kind if isinstance(part, Media) else part.text for part in found if not isinstance(part, str)] == [
        "image",
        "What?",
        "That.",
    ]
    assert not meta
    assert all(isinstance(part, Media | Text) for part in found)


def test_what_is_no_sample_is_refused() -> None:
    for data, reason in ((b"{", "bad_record"), (b"{}", "no_parts")):
        with pytest.raises(DataError) as caught:
            parts(Group("k", {"json": member("k.json", data)}))
        assert caught.value.reason == reason
    with pytest.raises(DataError, match="text_not_utf8"):
        parts(Group("k", {"txt": member("k.txt", b"\xff\xfe")}))


@pytest.mark.parametrize("extension", ["jfif", "mpg", "flv", "ts", "aiff", "au"])
def test_media_of_any_name_are_media(extension: str) -> None:
    found, _ = parts(Group("k", {extension: member(f"k.{extension}", None), "txt": member("k.txt", b"words")}))
    assert [part.uri if isinstance(part, Media) else part for part in found] == [extension, "txt"]


def test_a_sample_whose_medium_is_not_read_is_no_text_alone() -> None:
    members = {name: member(f"k.{name}") for name in ("heic", "left.svg", "txt")}
    with pytest.raises(DataError, match=r"unsupported_format: heic, left\.svg"):
        parts(Group("k", members))
    assert len(parts(Group("k", {**members, "jpg": member("k.jpg")}))[0]) == 2


@pytest.mark.parametrize("value", [b"[]", b"[1, 2]", b'[{"bbox": [0, 0, 1, 1]}]', b'["hi"]'])
def test_a_list_of_anything_else_is_no_conversation(value: bytes) -> None:
    found, meta = parts(Group("k", {"jpg": member("k.jpg"), "txt": member("k.txt"), "json": member("k.json", value)}))
    assert ([part if isinstance(part, str) else part.__class__ for part in found], meta) == ([Media, "txt"], False)


def test_a_conversation_may_be_json_in_a_text() -> None:
    talk = json.dumps([{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "That."}])
    whole = {"jpg": member("k.jpg"), "json": member("k.json", json.dumps({"conversations": talk}).encode())}
    found, meta = parts(Group("k", whole))
    assert [part.text for part in found if isinstance(part, Text)] == ["What?", "That."]
    assert meta
    spoilt = {**whole, "json": member("k.json", json.dumps({"conversations": talk[:-1]}).encode())}
    with pytest.raises(DataError, match="bad_record: its conversation is no JSON"):
        parts(Group("k", spoilt))
    assert parts(Group("k", {**spoilt, "txt": member("k.txt")}))[0][1] == "txt"
