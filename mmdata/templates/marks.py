"""Coordinates in a text: which of its characters are a place, and which name what lies there."""

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
    "region": "box",
    "phrase": "entity",
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


_SHARE = r"\s*[01]\.\d+\s*"
_BARE = re.compile(
    r"(?:<(?:loc_?|patch_index_)\d{1,4}>){2,}"  # tokens of PaliGemma, Florence-2 and Kosmos-2
    r'|"(?:bbox|point)_2d"\s*:\s*\[[^\[\]]*\]'  # Qwen2.5-VL's JSON and later
    rf"|\[{_SHARE}(?:[,;]{_SHARE}){{3,}}\]"  # Shikra's and LLaVA's shares
)
"""Coordinates that no tags stand around."""


def marks(text: str) -> Iterator[tuple[int, int, SpanKind]]:
    """The stretches [start, stop) of a text that are coordinates or name what lies there, in order: `tags`, and outside
    of them coordinates as the formats without tags write them (`mmdata.boxes`).

    >>> list(marks("<ref>cat</ref> <loc_1><loc_2><loc_3><loc_4>, [0.1, 0.2, 0.3, 0.4], [1, 2]"))
    [(0, 14, 'entity'), (15, 43, 'box'), (45, 65, 'box')]
    """
    reached = 0
    for start, stop, kind in (*tags(text), (len(text), len(text), None)):
        for match in _BARE.finditer(text, reached, start):
            yield match.start(), match.end(), "box"
        if kind is not None:
            yield start, stop, kind
        reached = stop


def tags(text: str) -> Iterator[tuple[int, int, SpanKind]]:
    """The tagged stretches [start, stop) of a text, tags included, in order. A tag that is not closed marks nothing;
    one within another belongs to the outer.

    >>> list(tags("<ref>cat</ref><box>(1,2),(3,4)</box>."))
    [(0, 14, 'entity'), (14, 36, 'box')]
    """
    if "<" not in text:
        return
    found = list(_TAG.finditer(text))
    closings: dict[str, list[int]] = {}
    for at in range(len(found) - 1, -1, -1):
        closings.setdefault(found[at].group(), []).append(at)
    reached = -1
    for at, tag in enumerate(found):
        if at <= reached or tag.group() not in _CLOSING:
            continue
        closing, kind = _CLOSING[tag.group()]
        waiting = closings.get(closing, [])
        while waiting and waiting[-1] < at:
            waiting.pop()
        if waiting:
            reached = waiting[-1]
            yield tag.start(), found[reached].end(), kind
