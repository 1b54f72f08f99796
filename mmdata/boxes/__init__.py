"""Boxes as vision-language models write them: from pixels to a text in a named format, and back.

A box is (left, top, right, bottom) in pixels of a picture of `size` (height, width), edges and not centres of pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from mmdata.boxes._forms import DIGITS, FORMS_BY_NAME, SEVERAL, BoxFormat
from mmdata.boxes._numbers import CELLS, Box, Size

__all__ = [
    "FORMATS",
    "Box",
    "BoxFormat",
    "Located",
    "Size",
    "boxes_at",
    "coordinate_tokens",
    "format_answer",
    "format_boxes",
    "format_objects",
    "format_phrase",
    "moves_with_size",
    "parse_boxes",
    "rewrite_boxes",
]

FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)


_SIGNED = re.compile(r"-?\d+(?:\.\d+)?")
"""Generated text may tell of places outside of the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A box that a text names: `phrase` is what lies there, where the text says so."""

    box: Box
    phrase: str | None = None


def format_boxes(boxes: Sequence[Box], size: Size, name: BoxFormat, *, seen: Size | None = None) -> str:
    """Boxes alone, as they stand in a question or behind a phrase. `seen` (height, width) is what `qwen2_5_vl` makes of
    the picture; without it the picture's own size.

    >>> format_boxes([(20, 10, 100, 50)], (100, 200), "qwen2_vl")
    '<|box_start|>(100,100),(500,500)<|box_end|>'
    >>> format_boxes([(20, 10, 100, 50)], (100, 200), "paligemma")
    '<loc0102><loc0102><loc0512><loc0512>'
    """
    form = FORMS_BY_NAME[name]
    return form.boxes([form.quantise(box, size, seen or size) for box in boxes])


def format_phrase(phrase: str, name: BoxFormat) -> str:
    """A phrase as a question for its boxes names it.

    >>> format_phrase("the cat", "internvl"), format_phrase("the cat", "qwen3_vl")
    ('<ref>the cat</ref>', 'the cat')
    """
    return FORMS_BY_NAME[name].phrase(phrase)


def format_objects(
    objects: Sequence[tuple[str, Sequence[Box]]], size: Size, name: BoxFormat, *, seen: Size | None = None
) -> str:
    """Phrases with their boxes: the answer to a question for all that there is.

    >>> format_objects([("cat", [(20, 10, 100, 50)])], (100, 200), "internvl")
    '<ref>cat</ref><box>[[100, 100, 500, 500]]</box>'
    """
    form = FORMS_BY_NAME[name]
    made = [(phrase, [form.quantise(box, size, seen or size) for box in boxes]) for phrase, boxes in objects]
    return form.objects(made)


def format_answer(phrase: str, boxes: Sequence[Box], size: Size, name: BoxFormat, *, seen: Size | None = None) -> str:
    """The answer to a question for one phrase: with the phrase where the format's models say it again.

    >>> format_answer("cat", [(20, 10, 100, 50)], (100, 200), "kosmos2")
    '<phrase> cat</phrase><object><patch_index_0099><patch_index_0495></object>'
    >>> format_answer("cat", [(20, 10, 100, 50)], (200, 200), "shikra")
    '[0.100,0.050,0.500,0.250]'
    """
    if FORMS_BY_NAME[name].answers_with_phrase:
        return format_objects([(phrase, boxes)], size, name, seen=seen)
    return format_boxes(boxes, size, name, seen=seen)


def parse_boxes(text: str, size: Size, name: BoxFormat, *, seen: Size | None = None) -> list[Located]:
    """The boxes of a text, in its order, in pixels of a picture of `size`; what is not in the format is passed over, as
    generated text must be read. Numbers are taken as they stand: corners may be swapped or lie outside of the picture.

    >>> parse_boxes('```json\\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}, {"bbox', (100, 100), "qwen2_5_vl")
    [Located(box=(10.0, 20.0, 30.0, 40.0), phrase='cat')]
    """
    form = FORMS_BY_NAME[name]
    return [
        Located(box=form.restore(numbers, size, seen or size), phrase=phrase) for phrase, numbers in form.find(text)
    ]


def boxes_at(text: str, size: Size, name: BoxFormat) -> list[tuple[int, int, Box]]:
    """Where the numbers of each box stand in a text, [start, stop) in characters, and the box in pixels of a picture of
    `size`; where the format has tags, only between them. Of a size of (1, 1) in shares of its sides (`shikra` and
    `llava`: of the square that it is padded to; `qwen2_5_vl`: pixels, whatever the size).

    >>> boxes_at("a cat <box>[[100, 0, 500, 250]]</box>", (1, 1), "internvl")
    [(12, 30, (0.1, 0.0, 0.5, 0.25))]
    """
    form = FORMS_BY_NAME[name]
    found = []
    places = [stretch.span() for stretch in form.tagged.finditer(text)] if form.tagged else [(0, len(text))]
    for match in (match for start, stop in places for match in form.pattern.finditer(text, start, stop)):
        numbers = tuple(float(number) for number in _SIGNED.findall(match[0]))
        found.append((match.start(), match.end(), form.restore(numbers, size, size)))
    return found


def rewrite_boxes(text: str, size: Size, name: BoxFormat, move: Callable[[Box], Box], after: Size) -> str:
    """The text with every box moved: `move` takes it from pixels of a picture of `size` to pixels of one of `after`.
    Numbers that stay where they are stay as they are written. Raises ValueError for `qwen2_5_vl`, whose numbers say
    nothing without the size that a model sees.

    >>> rewrite_boxes("cat<loc_100><loc_0><loc_400><loc_500>", (10, 10), "florence2", lambda box: box, (10, 20))
    'cat<loc_50><loc_0><loc_200><loc_500>'
    """
    form = FORMS_BY_NAME[name]
    if moves_with_size(name):
        raise ValueError(f"boxes of {name} cannot be moved in a text")

    def again(match: re.Match[str]) -> str:
        numbers = tuple(float(number) for number in DIGITS.findall(match[0]))
        made = form.quantise(move(form.restore(numbers, size, size)), after, after)
        if tuple(map(float, made)) == numbers:
            return match[0]
        return form.one(made)

    if form.tagged is None:
        return form.pattern.sub(again, text)
    return form.tagged.sub(lambda stretch: form.pattern.sub(again, stretch[0]), text)


def coordinate_tokens(name: BoxFormat) -> tuple[str, ...]:
    """What a tokenizer should know as one token each: the format's tags, and its coordinates where they are tokens.

    >>> coordinate_tokens("internvl")
    ('<ref>', '</ref>', '<box>', '</box>')
    >>> len(coordinate_tokens("paligemma")), coordinate_tokens("florence2")[-1], coordinate_tokens("shikra")
    (1024, '<loc_999>', ())
    """
    match name:
        case "paligemma":
            return tuple(f"<loc{number:04d}>" for number in range(1024))
        case "florence2":
            return tuple(f"<loc_{number}>" for number in range(1000))
        case "kosmos2":
            cells = tuple(f"<patch_index_{number:04d}>" for number in range(CELLS**2))
            return ("<phrase>", "</phrase>", "<object>", "</object>", SEVERAL, *cells)
        case "qwen_vl" | "internvl":
            return ("<ref>", "</ref>", "<box>", "</box>")
        case "qwen2_vl":
            return ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
        case _:
            return ()


def moves_with_size(name: BoxFormat) -> bool:
    """Whether the numbers depend on how large the model sees the picture."""
    return name == "qwen2_5_vl"
