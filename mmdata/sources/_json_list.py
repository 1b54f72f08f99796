"""The items of one JSON list, as LLaVA's data come: read a piece at a time, whatever the size of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from mmdata.errors import DataError

PIECE = 1 << 20
"""Characters that are read at a time."""
LONGEST = 1 << 24
"""Characters of the longest item that is read."""
BYTES = "surrogateescape"
"""How a text is decoded that may have bytes which are not its encoding's: each becomes half a surrogate pair, which no
text has."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class NotUtf8(str):
    """What is wrong with a row that has such bytes."""


def spoilt(text: str) -> NotUtf8 | None:
    """What is wrong with a text that was decoded with `BYTES`; None if nothing is.

    >>> spoilt("Käse"), spoilt(b"K\\xe4se".decode(errors=BYTES))
    (None, 'not UTF-8: byte 0xe4 behind 1 character(s)')
    """
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = text[error.start].encode("utf-8", BYTES)[0]
        return NotUtf8(f"not UTF-8: byte {byte:#04x} behind {error.start:,} character(s)")
    return None


def begins(text: IO[str]) -> str:
    """The first character that is no white space; empty for a text without any. The text is read up to it.

    >>> import io
    >>> begins(io.StringIO(" \\n [1]"))
    '['
    """
    while (character := text.read(1)) and character in " \t\r\n":
        pass
    return character


def items(text: IO[str], name: str) -> Iterator[Any]:
    """The items of the list that the text is; of one that is `spoilt` what is wrong with it. Raises DataError
    `source_unreadable`, naming the line, where it is no list, ends too early, or goes on behind it: unlike a line, an
    item that is no JSON hides where the next begins.

    >>> import io
    >>> list(items(io.StringIO('[{"id": 1},\\n {"id": 2}]'), "train.json"))
    [{'id': 1}, {'id': 2}]
    """
    reading = _Reading(text, name)
    if reading.peek() != "[":
        raise reading.wrong("a list of samples is wanted: [{...}, {...}]")
    yield from _listed(reading)
    if reading.peek():
        raise reading.wrong("there is more behind the list")


def sections(text: IO[str], name: str) -> Iterator[tuple[str, Any]]:
    """The values of the object that the text is, by their keys; of lists the items, one by one. Raises DataError
    `source_unreadable` as `items` does.

    >>> import io
    >>> list(sections(io.StringIO('{"info": {"year": 2014}, "images": [{"id": 1}, {"id": 2}], "none": []}'), "x.json"))
    [('info', {'year': 2014}), ('images', {'id': 1}), ('images', {'id': 2})]
    """
    reading = _Reading(text, name)
    if reading.take() != "{":
        raise reading.wrong("an object of lists is wanted")
    more = reading.peek() != "}"
    if not more:
        reading.take()
    while more:
        key = reading.value()
        if not isinstance(key, str) or reading.take() != ":":
            raise reading.wrong("a key and a colon are wanted")
        if reading.peek() == "[":
            for item in _listed(reading):
                yield key, item
        else:
            yield key, reading.value()
        mark = reading.take()
        if mark not in (",", "}"):
            raise reading.wrong("a comma is missing between two keys" if mark else "the file ends in the object")
        more = mark == ","
    if reading.peek():
        raise reading.wrong("there is more behind the object")


def _listed(reading: _Reading) -> Iterator[Any]:
    reading.take()
    if reading.peek() == "]":
        reading.take()
        return
    while True:
        yield reading.value()
        mark = reading.take()
        if mark == "]":
            return
        if mark != ",":
            raise reading.wrong("a comma is missing between two samples" if mark else "the file ends in the list")


class _Reading:
    """A text and how far it was read. Of it no more is in memory than an item and a piece."""

    def __init__(self, text: IO[str], name: str) -> None:
        self._text, self._name = text, name
        self._held, self._at, self._line, self._ended = "", 0, 1, False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            space = _SPACE.match(self._held, self._at)
            assert space is not None, "it matches nothing, too"
            self._at = space.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if self._ended:
                return ""
            self._more(PIECE)

    def take(self) -> str:
        """The same, and past it."""
        found = self.peek()
        self._at += len(found)
        return found

    def value(self) -> Any:
        """The next value."""
        self.peek()
        piece = PIECE
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or self._ended:
                    raise self._error(error) from error
                if len(self._held) - self._at > LONGEST:
                    raise self.wrong(f"an item of more than {LONGEST:,} characters, or {error}") from error
            else:
                if end + 2 < len(self._held) or self._ended:  # else a number may go on, behind its point or `e-`
                    wrong = spoilt(self._held[self._at : end])
                    self._at = end
                    return value if wrong is None else wrong
            self._more(piece)
            piece *= 2

    def wrong(self, what: str) -> DataError:
        """The error that says so of this place."""
        line = self._line + self._held.count("\n", 0, self._at)
        return DataError("source_unreadable", f"{self._name}: not a JSON list, line {line}: {what}")

    def _error(self, error: ValueError | RecursionError) -> DataError:
        if isinstance(error, json.JSONDecodeError):
            if error.pos >= len(self._held.rstrip()) or error.msg.startswith("Unterminated"):
                return self.wrong("the file ends in this sample")
            self._at = error.pos
            return self.wrong(error.msg)
        return self.wrong(f"{error}")

    def _more(self, characters: int) -> None:
        self._line += self._held.count("\n", 0, self._at)
        read = self._text.read(characters)
        self._held, self._at, self._ended = self._held[self._at :] + read, 0, not read
