"""Codes of pictures as words of a tokenizer, and texts that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

BEGIN, END = "<|picture|>", "<|/picture|>"
CODE = re.compile(r"<\|code_(\d+)\|>")
PICTURE = re.compile(re.escape(BEGIN) + r"((?:<\|code_\d+\|>)*)" + re.escape(END))


def vocabulary(codes: int) -> list[str]:
    """The words that a tokenizer has for pictures of so many codes.

    >>> vocabulary(2)
    ['<|picture|>', '<|/picture|>', '<|code_0|>', '<|code_1|>']
    """
    return [BEGIN, END, *(f"<|code_{code}|>" for code in range(codes))]


def written(ids: Iterable[int]) -> str:
    """A picture's codes, row by row, as a text.

    >>> written([3, 0])
    '<|picture|><|code_3|><|code_0|><|/picture|>'
    """
    return BEGIN + "".join(f"<|code_{int(code)}|>" for code in ids) + END


def read(text: str) -> list[list[int]]:
    """The codes of each picture in a text; what is no whole picture is passed over.

    >>> read("a <|picture|><|code_3|><|code_0|><|/picture|> b")
    [[3, 0]]
    """
    return [[int(code) for code in CODE.findall(found)] for found in PICTURE.findall(text)]


def without(text: str) -> str:
    """A text without its pictures' words."""
    return CODE.sub("", text).replace(BEGIN, "").replace(END, "")


def grid(codes: Sequence[int], side: int) -> list[list[int]]:
    """Codes as rows. Raises ValueError for another number of them than side * side."""
    if len(codes) != side * side:
        raise ValueError(f"{len(codes)} codes; a picture has {side * side}")
    return [list(codes[at : at + side]) for at in range(0, len(codes), side)]
