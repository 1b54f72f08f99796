"""What a record is told apart by: its metadata and facts by name, and the group that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mmdata.types import Sample

FACTS = ("height", "width", "format", "mode", "frames", "fps", "seconds", "sample_rate", "channels", "sha256")
OWN = ("caption", "key", "origin", "url", "host")


def columns(sample: Sample) -> dict[str, Any]:
    """All names that a record offers: facts of its first medium, its first `caption`, its `key`, the `origin` that
    listed it, the `url` of its first medium and the `host` of that; and its metadata, which win over all of these."""
    row: dict[str, Any] = dict.fromkeys((*FACTS, *OWN))
    if sample.media:
        row |= {name: getattr(sample.media[0], name) for name in FACTS}
        row["url"] = sample.media[0].uri
        row["host"] = _host(row["url"])
    row["caption"] = next((text.text for text in sample.texts if text.role == "caption"), None)
    row["key"], row["origin"] = sample.key, sample.origin.uri
    return row | dict(sample.meta)


def with_columns(sample: Sample, values: Mapping[str, Any]) -> Sample:
    """The sample with these in its metadata, which become columns of the dataset and names for `where`."""
    return replace(sample, meta={**sample.meta, **values})


def group(sample: Sample, by: str) -> str | None:
    """The group of a record by one of its columns: one spelling per JSON value, whole numbers alike in tables that hold
    them as floats (with nulls beside them). None where it has no such column.

    >>> from mmdata.types import Origin
    >>> sample = Sample(key="a", parts=(), meta={"film": 7, "tags": ["a"]}, origin=Origin(uri="t", row=0))
    >>> group(sample, "film"), group(sample, "tags"), group(sample, "origin"), group(sample, "scene")
    ('7', '["a"]', '"t"', None)
    """
    value = columns(sample).get(by)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url or "").hostname
    except ValueError:
        return None
