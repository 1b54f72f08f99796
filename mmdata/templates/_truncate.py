"""Samples that are too long for a pack: whole exchanges go first, then the end of one answer, never half a medium."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mmdata.errors import DataError
from mmdata.templates._codec import Tokenizer
from mmdata.templates._encode import Encoded, encode
from mmdata.templates._pairs import is_pair
from mmdata.templates._template import Template
from mmdata.templates._turns import messages
from mmdata.templates.marks import marks
from mmdata.types import Media, Sample, Text

Keep = Literal["first", "last"]

_END = re.compile(
    r"""[.!?…؟۔।॥։።፧។៕။]+["'”’»)\]]*(?=\s|$)"""  # a sentence of a script that puts a space behind it
    r"|[。！？｡]+[\"'”’」』）]*"  # one that does not
    r"|(?<=\S)(?=[ \t]*\n[ \t]*(?:\n|[-*•]|\d+[.)]))"  # a paragraph, an entry of a list
)
_NO_END = re.compile(r"(?:^|[\s(])(?:(?i:mr|mrs|ms|dr|prof|st|vs|cf|fig|no|vol|approx|etc|e\.g|i\.e)|[A-Z]|\d+)\.$")
"""Abbreviations, initials and the numbers of a list, after which a full stop ends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """What is left of a sample that was too long.

    `kept` are the numbers of its media that are left, `tokens` its length with them, `done` what was taken away:
    `messages_dropped`, `media_dropped`, `response_cut` (1 where an answer was shortened); empty where nothing was.
    """

    sample: Sample
    encoded: Encoded
    kept: tuple[int, ...]
    tokens: int
    done: Mapping[str, int]


def truncate(
    sample: Sample,
    encoded: Encoded,
    media_tokens: Sequence[int],
    *,
    max_length: int,
    tokenizer: Tokenizer,
    template: Template,
    keep: Keep = "first",
) -> Truncated | DataError:
    """Make a sample fit into `max_length` tokens, media included: `media_tokens` says for each of `encoded.media` how
    many take its place.

    Whole exchanges (a user's message and all up to the next) are dropped: the last ones (`keep="first"`, so that every
    answer that is left has all it was given), or the oldest ones (`keep="last"`), but then none that holds a medium,
    since later answers may be about it. What comes before the first exchange stays. If one exchange is left and still
    too long, its answer is cut at the end of a sentence. What is left is encoded anew, so it is exactly what the
    template makes of a shorter conversation. Answers DataError `overlong` where nothing of this is enough.
    """
    sizes = {id(medium): size for medium, size in zip(encoded.media, media_tokens, strict=True)}

    def trial(parts: Sequence[Text | Media]) -> tuple[Sample, Encoded, int] | None:
        shorter = replace(sample, parts=tuple(parts))
        (found,) = encode([shorter], tokenizer, template)
        if isinstance(found, DataError):
            return None
        tokens = len(found.ids) - len(found.media) + sum(sizes[id(medium)] for medium in found.media)
        return (shorter, found, tokens) if tokens <= max_length else None

    tokens = len(encoded.ids) - len(encoded.media) + sum(media_tokens)
    if tokens <= max_length:
        kept = tuple(range(len(sample.media)))
        return Truncated(sample=sample, encoded=encoded, kept=kept, tokens=tokens, done={})
    if is_pair(sample):
        return DataError("overlong", f"{sample.key}: {tokens} tokens, {max_length} fit; of two answers none is cut")
    head, exchanges = _exchanges(sample.parts)
    choices = list(_choices(len(exchanges), [_holds_media(sample.parts[a:b]) for a, b in exchanges], keep))
    ranges = [[*head, *(at for a, b in exchanges[first:last] for at in range(a, b))] for first, last in choices]
    number = _largest(len(ranges), lambda at: trial([sample.parts[i] for i in ranges[at]]))
    if number is not None:
        left = trial([sample.parts[i] for i in ranges[number]])
        assert left is not None, ranges[number]
        return _truncated(sample, ranges[number], left, cut=False)
    parts = [sample.parts[i] for i in ranges[0]]
    ends = _ends(parts[-1], template)
    cut = [_cut(parts, end) for end in ends]
    number = _largest(len(cut), lambda at: trial(cut[at]))
    if number is None:
        return DataError("overlong", f"{sample.key}: {tokens} tokens, {max_length} fit, and nothing more can go")
    left = trial(cut[number])
    assert left is not None, cut[number]
    return _truncated(sample, ranges[0], left, cut=True)


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of a text end, in characters; not within a grounding tag.

    >>> text = "It is 3.5 m. Ask Dr. Fox? <box>(1. 2)</box> Yes"
    >>> [text[:at] for at in sentence_ends(text)]
    ['It is 3.5 m.', 'It is 3.5 m. Ask Dr. Fox?']
    """
    tagged = [(start, stop) for start, stop, _ in marks(text)]
    ends = []
    at = 0
    for end in dict.fromkeys(found.end() for found in _END.finditer(text)):
        while at < len(tagged) and tagged[at][1] <= end:
            at += 1
        within = at < len(tagged) and tagged[at][0] < end
        if not within and not _NO_END.search(text, max(0, end - 12), end):
            ends.append(end)
    return ends


def _exchanges(parts: Sequence[Text | Media]) -> tuple[range, list[tuple[int, int]]]:
    """The parts before the first user's message, and those [a, b) of each exchange; without a user all is one."""
    starts: list[int] = []
    at = 0
    for message in messages(parts):
        if message.role == "user":
            starts.append(at)
        at += len(message.items)
    if not starts or not any(isinstance(part, Text) and part.role == "user" for part in parts):
        return range(0), [(0, len(parts))]
    return range(starts[0]), list(zip(starts, [*starts[1:], len(parts)], strict=True))


def _choices(count: int, media: Sequence[bool], keep: Keep) -> list[tuple[int, int]]:
    """The exchanges [first, last) that may be left, from fewest to most."""
    if keep == "first":
        return [(0, last) for last in range(1, count + 1)]
    pinned = next((at for at, held in enumerate(media) if held), count - 1)
    return [(first, count) for first in range(min(pinned, count - 1), -1, -1)]


def _holds_media(parts: Sequence[Text | Media]) -> bool:
    return any(isinstance(part, Media) for part in parts)


def _largest(count: int, fits: Callable[[int], object]) -> int | None:
    """The largest number under `count` that fits, where every smaller one fits too."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if low >= 0 else None


def _ends(part: Text | Media, template: Template) -> list[int]:
    if not isinstance(part, Text) or not part.train or not template.form.trains(part.role):
        return []
    return [end for end in sentence_ends(part.text) if part.text[:end].strip()]


def _cut(parts: Sequence[Text | Media], end: int) -> list[Text | Media]:
    last = parts[-1]
    assert isinstance(last, Text), last
    return [*parts[:-1], replace(last, text=last.text[:end])]


def _truncated(sample: Sample, left: Sequence[int], found: tuple[Sample, Encoded, int], *, cut: bool) -> Truncated:
    shorter, encoded, tokens = found
    numbers: dict[int, int] = {}
    for at, part in enumerate(sample.parts):
        if isinstance(part, Media):
            numbers[at] = len(numbers)
    kept = tuple(numbers[at] for at in left if at in numbers)
    done = {
        "messages_dropped": len(messages(sample.parts)) - len(messages(shorter.parts)),
        "media_dropped": len(numbers) - len(kept),
        "response_cut": int(cut),
    }
    counted = {name: count for name, count in done.items() if count}
    return Truncated(sample=shorter, encoded=encoded, kept=kept, tokens=tokens, done=counted)
