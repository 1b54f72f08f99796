"""Drop samples with words, phrases or hosts that stand on a list."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import InputPath, StepSpec
from mmdata.steps import _texts
from mmdata.steps._columns import columns
from mmdata.steps._texts import Roles
from mmdata.steps.caption_length import SPACELESS
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

JOINED = "&@*"
"""Signs that belong to an entry (`s&m`), as symbols and emoji do; others only part its words."""


@register("step", "blocklist")
class Blocklist(StepSpec):
    """Drop samples whose texts hold a listed word or phrase, as `blocklist`, or whose media come from a listed host, as
    `blocklist_host`. Whole words are compared, in any case and Unicode form: `ass` is not found in `class`, `sea shell`
    is found in `Sea-shell`. Entries with symbols (`c++`, `s&m`, emoji) are found as they are written, not within words;
    entries of scripts without spaces anywhere. The detail does not repeat the word.
    """

    kind: Literal["blocklist"] = "blocklist"
    words: tuple[str, ...] = ()
    """Words and phrases."""
    file: InputPath | None = None
    """A UTF-8 file with more of them, one a line; `#` begins a comment."""
    hosts: tuple[str, ...] = ()
    """Hosts, without scheme and path; `example.org` stands for its subdomains too."""
    most: int = Field(0, ge=0)
    """How many occurrences are let pass."""
    roles: Roles = ()
    """The texts that are looked at, by role. Default: all."""
    file_digest: str | None = None
    """SHA-256 of `file`. Filled in: a build is bound to what the list says."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if not (self.words or self.file or self.hosts):
            raise ValueError("give `words`, a `file`, or `hosts`")
        if self.file is not None:
            found = _texts.digest(self.file)
            if self.file_digest not in (None, found):
                raise ValueError(f"file_digest: {self.file} has {found}, not {self.file_digest}")
            object.__setattr__(self, "file_digest", found)
        for word in self.words:
            if not (_texts.words(_texts.plain(word)) or _has_symbol(word)):
                raise ValueError(f"words: {word!r} has no letter, digit or symbol")
        for host in self.hosts:
            if not _plain_host(host) or set("/:@ ") & set(host):
                raise ValueError(f"hosts: {host!r} is no name of a host, as `example.org` is")
        return self

    def prepare(self) -> None:
        _listed(self.words, self.file, self.file_digest)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        host = columns(sample)["host"] if self.hosts else None
        named = None if host is None else _plain_host(str(host))
        if named is not None and any(named == one or named.endswith(f".{one}") for one in map(_plain_host, self.hosts)):
            return Drop(reason="blocklist_host", detail=str(host))
        listed = _listed(self.words, self.file, self.file_digest)
        found = sum(listed.count(text) for text in _texts.chosen(sample, self.roles))
        return sample if found <= self.most else Drop(reason=self.kind, detail=f"{found} listed words")


@lru_cache(maxsize=4096)
def _plain_host(host: str) -> str:
    """A host for comparing: in one case, in the letters of its address (IDNA), without what stands for subdomains.

    >>> _plain_host("*.Example.ORG."), _plain_host("Müller.de")
    ('example.org', 'xn--mller-kva.de')
    """
    plain = host.strip().lower().removeprefix("*").strip(".")
    try:
        return plain.encode("idna").decode()
    except UnicodeError:
        return plain


class _Listed(NamedTuple):
    phrases: frozenset[tuple[str, ...]]
    longest: int
    anywhere: tuple[str, ...]
    written: re.Pattern[str] | None
    """Finds entries with symbols."""

    def count(self, text: str) -> int:
        """Occurrences in a text; where several begin at a word the longest counts."""
        plain = _texts.plain(text)
        found = sum(plain.count(entry) for entry in self.anywhere)
        found += 0 if self.written is None else len(self.written.findall(plain))
        words, at = _texts.words(plain), 0
        while at < len(words):
            for length in range(min(self.longest, len(words) - at), 0, -1):
                if tuple(words[at : at + length]) in self.phrases:
                    found, at = found + 1, at + length - 1
                    break
            at += 1
        return found


@lru_cache(maxsize=4)
def _listed(words: tuple[str, ...], file: str | None, digest: str | None) -> _Listed:
    entries = {_texts.plain(entry) for entry in (*words, *(_texts.lines(file) if file else ()))}
    anywhere = {entry for entry in entries if SPACELESS.search(entry) or _texts.RUNNING.search(entry)}
    written = {entry for entry in entries - anywhere if _has_symbol(entry)}
    phrases = frozenset(tuple(_texts.words(entry)) for entry in entries - anywhere - written) - {()}
    pattern = "|".join(_bordered(entry) for entry in sorted(written, key=lambda entry: (-len(entry), entry)))
    longest = max(map(len, phrases), default=0)
    return _Listed(phrases, longest, tuple(sorted(anywhere)), re.compile(pattern) if written else None)


def _has_symbol(entry: str) -> bool:
    return any(c in JOINED or unicodedata.category(c)[0] == "S" for c in entry)


def _bordered(entry: str) -> str:
    """A pattern of an entry as it is written, at whose ends no word goes on."""
    before, after = (r"\b" if end.isalnum() else "" for end in (entry[0], entry[-1]))
    return before + re.escape(entry) + after
