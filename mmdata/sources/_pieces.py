"""One of the videos, sounds or pictures of a sample as a sample of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmdata.types import Media, MediaKind, Sample, Text

TIMES = {"video": "clips", "audio": "speech", "image": "frame_times"}
"""The column in which the step that cut a medium says where the pieces lay, in seconds."""
CLOSE = 0.25
"""Seconds by which a piece may be longer or shorter than its times: sound is cut by frames."""


def piece(sample: Sample, kind: MediaKind, number: int) -> Sample:
    """The number-th medium of a kind, with the texts that belong to it; without any medium where there is none.

    Its key is `KEY-000`; its SHA-256 is nobody's, since that in the index is of the file that all pieces came from.
    Columns: `parent`, `piece`, and `piece_start` and `piece_stop` where the sample says so.

    >>> from mmdata.types import Origin
    >>> clips = [Media(kind="video", seconds=1.0), Media(kind="video", seconds=2.0)]
    >>> meta = {"clips": [[0.0, 1.0], [1.0, 3.0]], "title": "x"}
    >>> film = Sample(key="a", parts=(*clips, Text(text="t")), meta=meta, origin=Origin(uri="f", row=0))
    >>> taken = piece(film, "video", 1)
    >>> taken.key, [type(part).__name__ for part in taken.parts], dict(taken.meta)
    ('a-001', ['Media', 'Text'], {'title': 'x', 'parent': 'a', 'piece': 1, 'piece_start': 1.0, 'piece_stop': 3.0})
    """
    places = [at for at, part in enumerate(sample.parts) if isinstance(part, Media) and part.kind == kind]
    mine = places[number] if number < len(places) else -1
    owners = _owners(sample, places)
    parts = tuple(
        replace(part, sha256=None) if isinstance(part, Media) else part
        for at, part in enumerate(sample.parts)
        if at == mine or (isinstance(part, Text) and owners.get(at, mine) == mine)
    )
    meta: dict[str, Any] = {name: value for name, value in sample.meta.items() if name not in (*TIMES.values(), SPOKEN)}
    meta = {**meta, "parent": sample.meta.get("parent", sample.key), "piece": number}
    if mine >= 0:
        medium = sample.parts[mine]
        assert isinstance(medium, Media)
        meta |= _times(sample.meta, medium, number, len(places))
    return Sample(key=f"{sample.key}-{number:03d}", parts=parts, meta=meta, origin=sample.origin)


SPOKEN = "spoken"
"""The column in which `subtitle_align` says behind which clips it put a text."""


def _owners(sample: Sample, places: list[int]) -> dict[int, int]:
    """The place of the piece to which a text belongs, by the place of the text. Others belong to all pieces."""
    spoken = sample.meta.get(SPOKEN)
    if not isinstance(spoken, list) or len(spoken) != len(places):
        return {}
    return {place + 1: place for place, said in zip(places, spoken, strict=True) if said}


def _times(meta: Mapping[str, Any], medium: Media, number: int, pieces: int) -> dict[str, float]:
    """Where the piece lay in what it was cut from, if the column tells of just these pieces."""
    told = meta.get(TIMES[medium.kind])
    if not isinstance(told, list) or len(told) != pieces:
        return {}
    found = told[number]
    if medium.kind == "image":
        return {"piece_start": found} if isinstance(found, int | float) else {}
    if not isinstance(found, list) or len(found) != 2:
        return {}
    start, stop = found
    if medium.seconds is not None and abs(stop - start - medium.seconds) > CLOSE:
        return {}  # times of what is in it (`voice_activity` that cut nothing)
    return {"piece_start": start, "piece_stop": stop}
