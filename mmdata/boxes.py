"""Boxes as vision-language models write them: from pixels to a text in a named format, and back.

A box is (left, top, right, bottom) in pixels of a picture of `size` (height, width), edges and not centres of pixels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Numbers = tuple[float, ...]

BoxFormat = Literal[
    "qwen_vl",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "paligemma",
    "florence2",
    "kosmos2",
    "shikra",
    "llava",
]
"""Names of the formats, with what the numbers are and where that is said:

- `qwen_vl`: `<ref>cat</ref><box>(x1,y1),(x2,y2)</box>`, floor(1000 * x / width), 999 at most (arXiv 2308.12966, 2.3:
  [0, 1000); read back by / 999, as eval_mm/evaluate_grounding.py of QwenLM/Qwen-VL).
- `qwen2_vl`: the same numbers in `<|object_ref_start|>cat<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`
  (arXiv 2409.12191, 2.2).
- `qwen2_5_vl`: JSON, `[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]`, whole pixels of the picture as the model sees
  it after its `smart_resize` (arXiv 2502.13923, 2.1.2).
- `qwen3_vl`: that JSON, with round(1000 * x / width) (QwenLM/Qwen3-VL, qwen-vl-finetune).
- `internvl`: `<ref>cat</ref><box>[[x1, y1, x2, y2]]</box>`, floor(1000 * x / width), 999 at most (OpenGVLab/InternVL
  issue 285; read back by / 1000, as internvl_chat/eval/refcoco/evaluate_grounding.py).
- `paligemma`: `<loc0123>` four times, y before x, round(1023 * y / height), then the phrase, then ` ; `
  (google-research/big_vision, pp/proj/paligemma/segmentation.py).
- `florence2`: the phrase, then `<loc_12>` four times for each box, floor(1000 * x / width), 999 at most, read back as
  the middle of the bin (transformers, `Florence2PostProcessor`).
- `kosmos2`: `<phrase> cat</phrase><object><patch_index_0044><patch_index_0863></object>`, the first and the last cell
  of a grid of 32 x 32 (transformers, `coordinate_to_patch_index`).
- `shikra`: `[0.123,0.456,0.789,0.900]`, several parted by `;`, shares of the picture padded to a square
  (shikras/shikra, `PlainBoxFormatter`, `box_xyxy_expand2square`).
- `llava`: `[0.12, 0.46, 0.79, 0.90]`, shares of the picture padded to a square (LLaVA 1.5, haotian-liu/LLaVA issue
  606).
"""
FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
CELLS = 32
"""Cells of Kosmos-2's grid along each side."""
_SEVERAL = "</delimiter_of_multi_objects/>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A box that a text names: `phrase` is what lies there, where the text says so."""

    box: Box
    phrase: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How one format writes and reads. `quantise` and `restore` go between pixels and the numbers in the text, given
    the picture's size and that which the model sees."""

    quantise: Callable[[Box, Size, Size], Numbers]
    restore: Callable[[Numbers, Size, Size], Box]
    boxes: Callable[[Sequence[Numbers]], str]
    phrase: Callable[[str], str]
    objects: Callable[[Sequence[tuple[str, Sequence[Numbers]]]], str]
    find: Callable[[str], Iterator[tuple[str | None, Numbers]]]
    answers_with_phrase: bool = True


def format_boxes(boxes: Sequence[Box], size: Size, name: BoxFormat, *, seen: Size | None = None) -> str:
    """Boxes alone, as they stand in a question or behind a phrase. `seen` (height, width) is what `qwen2_5_vl` makes of
    the picture; without it the picture's own size.

    >>> format_boxes([(20, 10, 100, 50)], (100, 200), "qwen2_vl")
    '<|box_start|>(100,100),(500,500)<|box_end|>'
    >>> format_boxes([(20, 10, 100, 50)], (100, 200), "paligemma")
    '<loc0102><loc0102><loc0512><loc0512>'
    """
    form = _FORMS[name]
    return form.boxes([form.quantise(box, size, seen or size) for box in boxes])


def format_phrase(phrase: str, name: BoxFormat) -> str:
    """A phrase as a question for its boxes names it.

    >>> format_phrase("the cat", "internvl"), format_phrase("the cat", "qwen3_vl")
    ('<ref>the cat</ref>', 'the cat')
    """
    return _FORMS[name].phrase(phrase)


def format_objects(
    objects: Sequence[tuple[str, Sequence[Box]]], size: Size, name: BoxFormat, *, seen: Size | None = None
) -> str:
    """Phrases with their boxes: the answer to a question for all that there is.

    >>> format_objects([("cat", [(20, 10, 100, 50)])], (100, 200), "internvl")
    '<ref>cat</ref><box>[[100, 100, 500, 500]]</box>'
    """
    form = _FORMS[name]
    made = [(phrase, [form.quantise(box, size, seen or size) for box in boxes]) for phrase, boxes in objects]
    return form.objects(made)


def format_answer(phrase: str, boxes: Sequence[Box], size: Size, name: BoxFormat, *, seen: Size | None = None) -> str:
    """The answer to a question for one phrase: with the phrase where the format's models say it again.

    >>> format_answer("cat", [(20, 10, 100, 50)], (100, 200), "kosmos2")
    '<phrase> cat</phrase><object><patch_index_0099><patch_index_0495></object>'
    >>> format_answer("cat", [(20, 10, 100, 50)], (200, 200), "shikra")
    '[0.100,0.050,0.500,0.250]'
    """
    if _FORMS[name].answers_with_phrase:
        return format_objects([(phrase, boxes)], size, name, seen=seen)
    return format_boxes(boxes, size, name, seen=seen)


def parse_boxes(text: str, size: Size, name: BoxFormat, *, seen: Size | None = None) -> list[Located]:
    """The boxes of a text, in its order, in pixels of a picture of `size`; what is not in the format is passed over, as
    generated text must be read. Numbers are taken as they stand: corners may be swapped or lie outside of the picture.

    >>> parse_boxes('```json\\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}, {"bbox', (100, 100), "qwen2_5_vl")
    [Located(box=(10.0, 20.0, 30.0, 40.0), phrase='cat')]
    """
    form = _FORMS[name]
    return [
        Located(box=form.restore(numbers, size, seen or size), phrase=phrase) for phrase, numbers in form.find(text)
    ]


def moves_with_size(name: BoxFormat) -> bool:
    """Whether the numbers depend on how large the model sees the picture."""
    return name == "qwen2_5_vl"


# Numbers. Every one of these takes the box, the picture's size and the size that the model sees.


def _shares(box: Box, size: Size) -> Box:
    height, width = size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _scaled(numbers: Sequence[float], size: Size) -> Box:
    height, width = size
    return numbers[0] * width, numbers[1] * height, numbers[2] * width, numbers[3] * height


def _bins(box: Box, size: Size, seen: Size) -> Numbers:
    height, width = size
    sides = (width, height, width, height)
    return tuple(min(max(math.floor(1000 * value / side), 0), 999) for value, side in zip(box, sides, strict=True))


def _from(most: float, middle: float = 0.0) -> Callable[[Numbers, Size, Size], Box]:
    """Shares of the side, in steps of 1 / `most`; a number stands for its step's `middle`."""
    return lambda numbers, size, seen: _scaled([(number + middle) / most for number in numbers], size)


def _thousandths(box: Box, size: Size, seen: Size) -> Numbers:
    return tuple(min(max(round(1000 * share), 0), 1000) for share in _shares(box, size))


def _pixels(box: Box, size: Size, seen: Size) -> Numbers:
    height, width = seen
    limits = (width, height, width, height)
    found = _scaled(_shares(box, size), seen)
    return tuple(min(max(round(value), 0), limit) for value, limit in zip(found, limits, strict=True))


def _from_pixels(numbers: Numbers, size: Size, seen: Size) -> Box:
    return _scaled(_shares((numbers[0], numbers[1], numbers[2], numbers[3]), seen), size)


def _locations(box: Box, size: Size, seen: Size) -> Numbers:
    left, top, right, bottom = (min(max(round(1023 * share), 0), 1023) for share in _shares(box, size))
    return top, left, bottom, right


def _from_locations(numbers: Numbers, size: Size, seen: Size) -> Box:
    top, left, bottom, right = (number / 1023 for number in numbers)
    return _scaled((left, top, right, bottom), size)


def _cells(box: Box, size: Size, seen: Size) -> Numbers:
    left, top, right, bottom = _shares(box, size)

    def inside(cell: int) -> int:
        return min(max(cell, 0), CELLS - 1)

    first = inside(math.floor(top * CELLS)) * CELLS + inside(math.floor(left * CELLS))
    last = inside(math.ceil(bottom * CELLS - 1)) * CELLS + inside(math.ceil(right * CELLS - 1))
    return first, last


def _from_cells(numbers: Numbers, size: Size, seen: Size) -> Box:
    """A box in one row or column of cells is all of them, another reaches from middle to middle."""
    (top, left), (bottom, right) = (divmod(int(number), CELLS) for number in numbers)
    narrow = top == bottom or left == right
    ends = (0.0, 1.0) if narrow else (0.5, 0.5)
    edges = (left + ends[0], top + ends[0], right + ends[1], bottom + ends[1])
    return _scaled([edge / CELLS for edge in edges], size)


def _square(digits: int) -> tuple[Callable[[Box, Size, Size], Numbers], Callable[[Numbers, Size, Size], Box]]:
    """Shares of the square that a picture is padded to on both sides, to so many digits."""

    def padding(size: Size) -> tuple[int, int, int]:
        height, width = size
        side = max(size)
        return side, (side - width) // 2, (side - height) // 2

    def quantise(box: Box, size: Size, seen: Size) -> Numbers:
        side, left, top = padding(size)
        moved = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        return tuple(round(value / side, digits) for value in moved)

    def restore(numbers: Numbers, size: Size, seen: Size) -> Box:
        side, left, top = padding(size)
        x0, y0, x1, y1 = (number * side for number in numbers)
        return x0 - left, y0 - top, x1 - left, y1 - top

    return quantise, restore


# Texts.

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_OBJECT = re.compile(r"\{[^{}]*\}")
_LOCATIONS = re.compile(r"((?:<loc\d{4}>){4})(?:<seg\d{3}>)*([^<;]*)")
_BINS = re.compile(r"([^<]*)((?:<loc_\d+>){4,})")
_PATCHES = re.compile(r"(?:<phrase>([^<]+)</phrase>)?\s*<object>(.*?)</object>", re.DOTALL)
_PAIR = re.compile(r"<patch_index_(\d{1,4})>\s*<patch_index_(\d{1,4})>")
_SQUARES = re.compile(r"\[(\s*\d(?:\.\d+)?(?:\s*[,;]\s*\d(?:\.\d+)?)*\s*)\]")


def _four(match: re.Match[str]) -> Numbers:
    return tuple(float(group) for group in match.groups()[-4:])


def _tagged(
    opening: str,
    closing: str,
    box: tuple[str, str],
    one: Callable[[Numbers], str],
    *,
    listed: bool,
    pattern: re.Pattern[str],
) -> dict[str, Any]:
    """A format of tags around phrases and boxes: a tag for each box, or one around a list of all (`listed`)."""
    wanted = re.compile(
        rf"(?:{re.escape(opening)}(.*?){re.escape(closing)}\s*)?"
        rf"((?:{re.escape(box[0])}.*?{re.escape(box[1])}\s*,?\s*)+)",
        re.DOTALL,
    )

    def boxes(found: Sequence[Numbers]) -> str:
        if listed:
            return f"{box[0]}[{', '.join(map(one, found))}]{box[1]}"
        return "".join(f"{box[0]}{one(numbers)}{box[1]}" for numbers in found)

    def objects(found: Sequence[tuple[str, Sequence[Numbers]]]) -> str:
        return "\n".join(f"{opening}{phrase}{closing}{boxes(each)}" for phrase, each in found)

    def find(text: str) -> Iterator[tuple[str | None, Numbers]]:
        tagged = False
        for stretch in wanted.finditer(text):
            phrase = stretch[1].strip() if stretch[1] else None
            for match in pattern.finditer(stretch[2]):
                tagged = True
                yield phrase, _four(match)
        if not tagged:  # Tokenizers leave the tags out where they are asked to skip special tokens.
            yield from ((None, _four(match)) for match in pattern.finditer(text))

    return {
        "boxes": boxes,
        "phrase": lambda phrase: f"{opening}{phrase}{closing}",
        "objects": objects,
        "find": find,
    }


def _corners(numbers: Numbers) -> str:
    return "({},{}),({},{})".format(*numbers)


def _brackets(numbers: Numbers) -> str:
    return "[{}]".format(", ".join(map(str, numbers)))


def _json_objects(objects: Sequence[tuple[str, Sequence[Numbers]]]) -> str:
    lines = [
        f'\t{{"bbox_2d": {_brackets(numbers)}, "label": {json.dumps(phrase, ensure_ascii=False)}}}'
        for phrase, each in objects
        for numbers in each
    ]
    return "```json\n[\n" + ",\n".join(lines) + "\n]\n```"


def _json_find(text: str) -> Iterator[tuple[str | None, Numbers]]:
    """Whole objects, also of a list that breaks off; where there is none, bare lists of four numbers."""
    found = False
    for match in _OBJECT.finditer(text):
        try:
            value = json.loads(match[0])
            box = next(value[key] for key in ("bbox_2d", "bbox", "box") if key in value)
            numbers = tuple(float(number) for number in box)
        except (ValueError, TypeError, StopIteration):
            continue
        if len(numbers) == 4 and all(map(math.isfinite, numbers)):
            label = value.get("label")
            found = True
            yield (label if isinstance(label, str) else None), numbers
    if not found:
        yield from ((None, _four(match)) for match in _FOUR.finditer(text))


def _loc(numbers: Numbers) -> str:
    return "".join(f"<loc{int(number):04d}>" for number in numbers)


def _loc_find(text: str) -> Iterator[tuple[str | None, Numbers]]:
    for match in _LOCATIONS.finditer(text):
        yield match[2].strip() or None, tuple(float(number) for number in re.findall(r"\d{4}", match[1]))


def _bin_tokens(found: Sequence[Numbers]) -> str:
    return "".join(f"<loc_{int(number)}>" for numbers in found for number in numbers)


def _bin_find(text: str) -> Iterator[tuple[str | None, Numbers]]:
    for match in _BINS.finditer(text):
        numbers = [float(number) for number in re.findall(r"\d+", match[2])]
        for at in range(0, len(numbers) - 3, 4):
            yield match[1].strip() or None, tuple(numbers[at : at + 4])


def _patches(found: Sequence[Numbers]) -> str:
    pairs = (f"<patch_index_{int(first):04d}><patch_index_{int(last):04d}>" for first, last in found)
    return f"<object>{_SEVERAL.join(pairs)}</object>"


def _patch_find(text: str) -> Iterator[tuple[str | None, Numbers]]:
    for match in _PATCHES.finditer(text):
        for first, last in _PAIR.findall(match[2]):
            if max(int(first), int(last)) < CELLS**2:
                yield match[1].strip() if match[1] else None, (float(first), float(last))


def _square_find(text: str) -> Iterator[tuple[str | None, Numbers]]:
    for match in _SQUARES.finditer(text):
        for box in match[1].split(";"):
            numbers = tuple(float(number) for number in box.split(","))
            if len(numbers) == 4:
                yield None, numbers


def _bare(quantise_restore: Any, boxes: Callable[[Sequence[Numbers]], str], between: str) -> _Form:
    """A format of boxes behind plain phrases."""
    quantise, restore = quantise_restore
    return _Form(
        quantise=quantise,
        restore=restore,
        boxes=boxes,
        phrase=str,
        objects=lambda objects: between.join(f"{phrase} {boxes(each)}" for phrase, each in objects),
        find=_square_find,
        answers_with_phrase=False,
    )


def _json_form(quantise: Any, restore: Any) -> _Form:
    return _Form(
        quantise=quantise,
        restore=restore,
        boxes=lambda found: ", ".join(map(_brackets, found)),
        phrase=str,
        objects=_json_objects,
        find=_json_find,
    )


_REF = ("<ref>", "</ref>")
_FORMS: dict[BoxFormat, _Form] = {
    "qwen_vl": _Form(
        quantise=_bins,
        restore=_from(999),
        **_tagged(*_REF, ("<box>", "</box>"), _corners, listed=False, pattern=_CORNERS),
    ),
    "qwen2_vl": _Form(
        quantise=_bins,
        restore=_from(1000),
        **_tagged(
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            ("<|box_start|>", "<|box_end|>"),
            _corners,
            listed=False,
            pattern=_CORNERS,
        ),
    ),
    "qwen2_5_vl": _json_form(_pixels, _from_pixels),
    "qwen3_vl": _json_form(_thousandths, _from(1000)),
    "internvl": _Form(
        quantise=_bins,
        restore=_from(1000),
        **_tagged(*_REF, ("<box>", "</box>"), _brackets, listed=True, pattern=_FOUR),
    ),
    "paligemma": _Form(
        quantise=_locations,
        restore=_from_locations,
        boxes=lambda found: " ; ".join(map(_loc, found)),
        phrase=str,
        objects=lambda objects: " ; ".join(f"{_loc(numbers)} {name}" for name, each in objects for numbers in each),
        find=_loc_find,
    ),
    "florence2": _Form(
        quantise=_bins,
        restore=_from(1000, middle=0.5),
        boxes=_bin_tokens,
        phrase=str,
        objects=lambda objects: "".join(f"{phrase}{_bin_tokens(each)}" for phrase, each in objects),
        find=_bin_find,
    ),
    "kosmos2": _Form(
        quantise=_cells,
        restore=_from_cells,
        boxes=_patches,
        phrase=lambda phrase: f"<phrase> {phrase}</phrase>",
        objects=lambda objects: "".join(f"<phrase> {phrase}</phrase>{_patches(each)}" for phrase, each in objects),
        find=_patch_find,
    ),
    "shikra": _bare(
        _square(3),
        lambda found: "[" + ";".join(",".join(f"{number:.3f}" for number in numbers) for numbers in found) + "]",
        ", ",
    ),
    "llava": _bare(
        _square(2),
        lambda found: ", ".join("[" + ", ".join(f"{number:.2f}" for number in numbers) + "]" for numbers in found),
        "; ",
    ),
}
