"""Names of a record."""

from __future__ import annotations

from mmdata.steps._columns import columns, group, with_columns
from mmdata.types import Media, Origin, Sample, Text


def test_names_and_who_wins() -> None:
    media = Media(kind="image", uri="https://Example.org:8080/a.jpg", height=3, width=4, sha256="ab")
    sample = Sample(
        key="k",
        parts=(Text(text="q", role="user"), media, Text(text="cat")),
        meta={"height": 9},
        origin=Origin(uri="t", row=2),
    )
    row = columns(sample)
    assert (row["height"], row["width"], row["sha256"], row["caption"]) == (9, 4, "ab", "cat")
    assert (row["key"], row["origin"], row["host"]) == ("k", "t", "example.org")
    assert row["fps"] is None
    assert columns(Sample(key="k", parts=(), origin=Origin(uri="t", row=0)))["host"] is None
    broken = Sample(key="k", parts=(Media(kind="image", uri="http://[x/"),), origin=Origin(uri="t", row=0))
    assert columns(broken)["host"] is None


def test_groups_are_told_apart_by_type() -> None:
    def named(value: object) -> str | None:
        return group(Sample(key="k", parts=(), meta={"g": value}, origin=Origin(uri="t", row=0)), "g")

    values = ["1", 1, True, ["1"], {"a": 1, "b": 2}]
    assert len({named(value) for value in values}) == len(values)
    assert named({"b": 2, "a": 1}) == named({"a": 1, "b": 2})
    assert named(None) is None
    assert named(7.0) == named(7) == "7", "one table holds a film's number as a float, another as an integer"
    assert named(7.5) == "7.5"


def test_columns_are_added() -> None:
    sample = Sample(key="k", parts=(), meta={"a": 1}, origin=Origin(uri="t", row=0))
    assert with_columns(sample, {"b": 2}).meta == {"a": 1, "b": 2}
    assert sample.meta == {"a": 1}
