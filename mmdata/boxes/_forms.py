"""The formats, one by one: how each writes numbers into a text, and finds them there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmdata.boxes._numbers import (
    CELLS,
    Box,
    Numbers,
    Size,
    bins,
    cells,
    from_cells,
    from_locations,
    from_pixels,
    locations,
    pixels,
    restored,
    square,
    thousandths,
)

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

SEVERAL = "</delimiter_of_multi_objects/>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one format writes and reads. `quantise` and `restore` go between pixels and the numbers in the text, given
    the picture's size and that which the model sees; `pattern` matches the numbers of one box, which `one` writes, and
    `tagged` the tags around them, outside of which such numbers are no box."""

    quantise: Callable[[Box, Size, Size], Numbers]
    restore: Callable[[Numbers, Size, Size], Box]
    boxes: Callable[[Sequence[Numbers]], str]
    phrase: Callable[[str], str]
    objects: Callable[[Sequence[tuple[str, Sequence[Numbers]]]], str]
    find: Callable[[str], Iterator[tuple[str | None, Numbers]]]
    pattern: re.Pattern[str]
    one: Callable[[Numbers], str]
    tagged: re.Pattern[str] | None = None
    answers_with_phrase: bool = True


DIGITS = re.compile(r"\d+(?:\.\d+)?")
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
        "tagged": re.compile(f"{re.escape(box[0])}.*?{re.escape(box[1])}", re.DOTALL),
        "pattern": pattern,
        "one": one,
        "boxes": boxes,
        "phrase": lambda phrase: f"{opening}{phrase}{closing}",
        "objects": objects,
        "find": find,
    }


def _corners(numbers: Numbers) -> str:
    return "({},{}),({},{})".format(*numbers)


def _brackets(numbers: Numbers) -> str:
    return "[{}]".format(", ".join(map(str, numbers)))


def _hundredths(numbers: Numbers) -> str:
    return "[" + ", ".join(f"{number:.2f}" for number in numbers) + "]"


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
    return f"<object>{SEVERAL.join(_pair(*numbers) for numbers in found)}</object>"


def _pair(first: float, last: float) -> str:
    return f"<patch_index_{int(first):04d}><patch_index_{int(last):04d}>"


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


def _bare(digits: int, pattern: re.Pattern[str], one: Callable[[Numbers], str], boxes: Any, between: str) -> Form:
    """A format of shares of a square behind plain phrases."""
    quantise, restore = square(digits)
    return Form(
        pattern=pattern,
        one=one,
        quantise=quantise,
        restore=restore,
        boxes=boxes,
        phrase=str,
        objects=lambda objects: between.join(f"{phrase} {boxes(each)}" for phrase, each in objects),
        find=_square_find,
        answers_with_phrase=False,
    )


def _json_form(quantise: Any, restore: Any) -> Form:
    return Form(
        quantise=quantise,
        restore=restore,
        boxes=lambda found: ", ".join(map(_brackets, found)),
        phrase=str,
        objects=_json_objects,
        find=_json_find,
        pattern=_FOUR,
        one=_brackets,
    )


_REF = ("<ref>", "</ref>")
FORMS_BY_NAME: dict[BoxFormat, Form] = {
    "qwen_vl": Form(
        quantise=bins,
        restore=restored(999),
        **_tagged(*_REF, ("<box>", "</box>"), _corners, listed=False, pattern=_CORNERS),
    ),
    "qwen2_vl": Form(
        quantise=bins,
        restore=restored(1000),
        **_tagged(
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            ("<|box_start|>", "<|box_end|>"),
            _corners,
            listed=False,
            pattern=_CORNERS,
        ),
    ),
    "qwen2_5_vl": _json_form(pixels, from_pixels),
    "qwen3_vl": _json_form(thousandths, restored(1000)),
    "internvl": Form(
        quantise=bins,
        restore=restored(1000),
        **_tagged(*_REF, ("<box>", "</box>"), _brackets, listed=True, pattern=_FOUR),
    ),
    "paligemma": Form(
        quantise=locations,
        restore=from_locations,
        boxes=lambda found: " ; ".join(map(_loc, found)),
        phrase=str,
        objects=lambda objects: " ; ".join(f"{_loc(numbers)} {name}" for name, each in objects for numbers in each),
        find=_loc_find,
        pattern=re.compile(r"(?:<loc\d{4}>){4}"),
        one=_loc,
    ),
    "florence2": Form(
        quantise=bins,
        restore=restored(1000, middle=0.5),
        boxes=_bin_tokens,
        phrase=str,
        objects=lambda objects: "".join(f"{phrase}{_bin_tokens(each)}" for phrase, each in objects),
        find=_bin_find,
        pattern=re.compile(r"(?:<loc_\d+>){4}"),
        one=lambda numbers: _bin_tokens([numbers]),
    ),
    "kosmos2": Form(
        quantise=cells,
        restore=from_cells,
        boxes=_patches,
        phrase=lambda phrase: f"<phrase> {phrase}</phrase>",
        objects=lambda objects: "".join(f"<phrase> {phrase}</phrase>{_patches(each)}" for phrase, each in objects),
        find=_patch_find,
        pattern=_PAIR,
        one=lambda numbers: _pair(*numbers),
    ),
    "shikra": _bare(
        3,
        re.compile(r"(?:\d\.\d+,){3}\d\.\d+"),
        lambda numbers: ",".join(f"{number:.3f}" for number in numbers),
        lambda found: "[" + ";".join(",".join(f"{number:.3f}" for number in numbers) for numbers in found) + "]",
        ", ",
    ),
    "llava": _bare(2, _FOUR, _hundredths, lambda found: ", ".join(map(_hundredths, found)), "; "),
}
