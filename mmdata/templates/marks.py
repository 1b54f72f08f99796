"""Grounding tags in a text: which of its characters are coordinates, and which name what lies there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmdata.types import SpanKind

_TAGS: dict[str, SpanKind] = {
    "ref": "entity",
    "p": "entity",
    "box": "box",
    "quad": "box",
    "point": "box",
    "points": "box",
    "click": "box",
    "poly": "box",
}
_PAIRS: tuple[tuple[str, str, SpanKind], ...] = (
    *((f"<{tag}>", f"</{tag}>", kind) for tag, kind in _TAGS.items()),
    ("<|object_ref_start|>", "<|object_ref_end|>", "entity"),
    ("<|box_start|>", "<|box_end|>", "box"),
    ("<|quad_start|>", "<|quad_end|>", "box"),
    ("<|point_start|>", "<|point_end|>", "box"),
)
_CLOSING = {opening: (closing, kind) for opening, closing, kind in _PAIRS}
_TAG = re.compile("|".join(re.escape(tag) for opening, closing, _ in _PAIRS for tag in (opening, closing)))


def marks(text: str) -> Iterator[tuple[int, int, SpanKind]]:
    """The tagged stretches [start, stop) of a text, tags included, in order. A tag that is not closed marks nothing;
    one within another belongs to the outer.

    >>> list(marks("<ref>cat</ref><box>(1,2),(3,4)</box>."))
    [(0, 14, 'entity'), (14, 36, 'box')]
    """
    if "<" not in text:
        return
    tags = list(_TAG.finditer(text))
    closings: dict[str, list[int]] = {}
    for at in range(len(tags) - 1, -1, -1):
        closings.setdefault(tags[at].group(), []).append(at)
    reached = -1
    for at, tag in enumerate(tags):
        if at <= reached or tag.group() not in _CLOSING:
            continue
        closing, kind = _CLOSING[tag.group()]
        waiting = closings.get(closing, [])
        while waiting and waiting[-1] < at:
            waiting.pop()
        if waiting:
            reached = waiting[-1]
            yield tag.start(), tags[reached].end(), kind
