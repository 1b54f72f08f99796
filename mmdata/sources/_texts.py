"""Captions as tables, lines and sidecars have them: a text, or several."""

from __future__ import annotations

from typing import Any

from mmdata.sources._tables import printable
from mmdata.types import Text


def captions(value: Any, name: str) -> tuple[Text, ...]:
    """The texts of a value: itself, or each of a list; none of null. Raises ValueError that names the key or column for
    what is no text.

    >>> [text.text for text in captions(["a cat", None, 7], "caption")]
    ['a cat', '7']
    """
    listed = value if isinstance(value, list) else [value]
    return tuple(Text(text=_text(each, name)) for each in listed if each is not None)


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):  # how some writers spell text
        return value.decode("utf-8", "replace")
    if isinstance(value, dict | list):
        raise ValueError(f"{name}: a text, or a list of texts, is wanted, not {str(value)[:80]}")
    return printable(str(value))
