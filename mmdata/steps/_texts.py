"""Which texts of a sample a step looks at, and lists that it reads from files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import fsspec

from mmdata.types import Drop, Sample, Text

Roles = tuple[str, ...]
ASCII_WORD = re.compile(r"[a-z0-9]+")
# Thai, Lao, Tibetan, Burmese and Khmer have no spaces between words.
RUNNING = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]")


def chosen(sample: Sample, roles: Roles) -> list[str]:
    """The texts of these roles; of all roles where none is named."""
    return [text.text for text in sample.texts if not roles or text.role in roles]


def document(sample: Sample, roles: Roles) -> str:
    """The chosen texts as one, parted by empty lines."""
    return "\n\n".join(chosen(sample, roles))


def rewritten(sample: Sample, roles: Roles, change: Callable[[str], str], *, empty: str) -> Sample | Drop:
    """The sample with its chosen texts changed. A text of which nothing is left is removed; a sample all of whose
    chosen texts are removed is dropped as `empty`. One that has none passes."""
    parts = []
    found = left = 0
    for part in sample.parts:
        if isinstance(part, Text) and (not roles or part.role in roles):
            found += 1
            text = change(part.text)
            if not text.strip():
                continue
            left += 1
            part = part if text == part.text else replace(part, text=text)
        parts.append(part)
    if found and not left:
        return Drop(reason=empty, detail="nothing is left of the text")
    return replace(sample, parts=tuple(parts))


def plain(text: str) -> str:
    """A text for comparing: in one case and Unicode form, without what nobody sees (soft hyphens, joiners).

    >>> plain("Ｃlass\u00ady STRASSE")
    'classy strasse'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return folded if folded.isascii() else "".join(c for c in folded if unicodedata.category(c) != "Cf")


def words(text: str) -> list[str]:
    """The words of a `plain` text: runs of letters and digits with the marks on them (vowels of Hindi, say).

    >>> words("sea-shell_2"), words("हिन्दी है")
    (['sea', 'shell', '2'], ['हिन्दी', 'है'])
    """
    if text.isascii():
        return ASCII_WORD.findall(text)
    seen = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    return [run for run in "".join(seen).split() if any(map(str.isalnum, run))]


@lru_cache(maxsize=16)
def lines(path: str) -> tuple[str, ...]:
    """The lines of a UTF-8 file that are neither empty nor comments (`#`), without white space at their ends. Raises
    OSError and UnicodeDecodeError."""
    with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
        stripped = (line.strip() for line in file)
        return tuple(line for line in stripped if line and not line.startswith("#"))


def digest(path: str) -> str:
    """SHA-256 of a file, in hex, which a spec holds so that a build is bound to what the file says. Raises ValueError
    for one that cannot be read."""
    try:
        with fsspec.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
