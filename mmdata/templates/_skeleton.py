"""What a template makes of a conversation's structure, texts still open: frames, gaps for texts, places of media."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdata.templates._codec import Codec
from mmdata.templates._turns import Message
from mmdata.types import Media, MediaKind, Text

OUTSIDE = -1
"""The turn of what belongs to no message that can be trained."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Characters that the template itself writes."""

    text: str
    turn: int = OUTSIDE


@dataclass(frozen=True, slots=True)
class Special:
    """A special token that the template itself writes; `stop` ends the turn."""

    id: int
    turn: int = OUTSIDE
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Where the text number `core` goes."""

    core: int
    turn: int = OUTSIDE


@dataclass(frozen=True, slots=True)
class Place:
    """Where the medium number `medium` goes."""

    medium: int


Atom = Frame | Special | Gap | Place
"""`turn` is the number of the message whose answer the atom is part of, or OUTSIDE."""

REASONING = re.compile(r"</?think>")
"""Tags by which chat templates tell reasoning from answer: the only ones they may see in an assistant's text."""
_HELD = "\ue000"

Shape = tuple[tuple[str, tuple[str, ...]], ...]
"""The structure of a conversation, which is all that a template may depend on: per message the role, and per part
the kind of a medium, or the outer white space of a text with a mark for each stretch that is held back."""

MEDIUM_SIGN = "\ue002"


@dataclass(frozen=True, slots=True)
class Core:
    """A stretch of text that is held back from the template, without white space around it."""

    text: str
    role: str
    train: bool


def shape(messages: Sequence[Message]) -> tuple[Shape, list[Core]]:
    """The structure of a conversation, and the texts that were taken out of it, in order.

    What the template gets to see of a text is the white space around it (templates trim) and, from an assistant,
    the tags of its reasoning (templates move them).

    >>> found, cores = shape([Message("user", [Media(kind="image"), Text(text=" <image>? ", role="user")])])
    >>> found, cores[0].text
    ((('user', ('\\ue002image', ' \\ue000 ')),), '<image>?')
    """
    cores: list[Core] = []
    outline = []
    for message in messages:
        parts = []
        for item in message.items:
            if isinstance(item, Media):
                parts.append(MEDIUM_SIGN + item.kind)
                continue
            split = REASONING if message.role == "assistant" and "think>" in item.text else None
            parts.append("".join(_held(item, message.role, split, cores)))
        outline.append((message.role, tuple(parts)))
    return tuple(outline), cores


def _held(text: Text, role: str, tags: re.Pattern[str] | None, cores: list[Core]) -> Iterator[str]:
    at = 0
    for tag in [*(tags.finditer(text.text) if tags else ()), None]:
        piece = text.text[at : tag.start() if tag else None]
        core = piece.strip()
        if core:
            lead = piece.index(core)
            yield piece[:lead] + _HELD + piece[lead + len(core) :]
            cores.append(Core(core, role, text.train))
        else:
            yield piece
        if tag:
            yield tag.group()
            at = tag.end()


def numbered(outline: Shape) -> tuple[list[tuple[str, list[str | tuple[MediaKind, int]]]], int, int]:
    """The outline with numbers: marks of texts as sentinels, media as (kind, number); how many of each."""
    cores = media = 0
    result = []
    for role, parts in outline:
        items: list[str | tuple[MediaKind, int]] = []
        for part in parts:
            if part.startswith(MEDIUM_SIGN):
                kind: Any = part[1:]
                items.append((kind, media))
                media += 1
                continue
            pieces = part.split(_HELD)
            text = pieces[0]
            for piece in pieces[1:]:
                text += sentinel("t", cores) + piece
                cores += 1
            items.append(text)
        result.append((role, items))
    return result, cores, media


def sentinel(kind: str, number: int) -> str:
    """What stands for a text (`t`) or a medium (`m`) in a rendered template; private characters that no text of a
    sample can bring in, because no text of a sample is there."""
    return f"\ue000{kind}{number}\ue001"


SENTINELS = re.compile("\ue000([tm])([0-9]+)\ue001")


def tokens(atoms: Sequence[Atom], codec: Codec) -> list[Atom]:
    """The same with special tokens told from other characters in every frame."""
    found: list[Atom] = []
    for atom in atoms:
        if isinstance(atom, Frame):
            found += [
                Special(piece, atom.turn) if isinstance(piece, int) else Frame(piece, atom.turn)
                for piece in codec.split(atom.text)
            ]
        else:
            found.append(atom)
    return found


def stopped(atoms: Sequence[Atom], turns: Sequence[int], stops: frozenset[int], add: int | None) -> list[Atom]:
    """The same with one stop in each of `turns`: the one in it, the one after it (white space between), or, if `add`
    is a token, that one put at its end.

    >>> stopped([Gap(0, 1), Special(2), Frame("\\n")], [1], frozenset({2}), add=2)
    [Gap(core=0, turn=1), Special(id=2, turn=1, stop=True), Frame(text='\\n', turn=-1)]
    """
    result = list(atoms)
    last: dict[int, int] = {}
    inside: dict[int, list[int]] = {}
    for at, atom in enumerate(result):
        if not isinstance(atom, Place) and atom.turn != OUTSIDE:
            last[atom.turn] = at
            if isinstance(atom, Special):
                inside.setdefault(atom.turn, []).append(at)
    for turn in sorted((turn for turn in turns if turn in last), key=last.__getitem__, reverse=True):
        own: list[tuple[int, Any]] = [(at, result[at]) for at in inside.get(turn, [])]
        if any(token.id in stops for _, token in own):
            for at, token in own:
                result[at] = replace(token, stop=token.id in stops)
            continue
        at = last[turn] + 1
        while at < len(result) and isinstance(space := result[at], Frame) and not space.text.strip():
            at += 1
        after = result[at] if at < len(result) else None
        if isinstance(after, Special) and after.id in stops and after.turn == OUTSIDE:
            for between in range(last[turn] + 1, at):
                frame: Any = result[between]
                result[between] = replace(frame, turn=turn)
            result[at] = Special(after.id, turn, stop=True)
        elif add is not None:
            result.insert(last[turn] + 1, Special(add, turn, stop=True))
    return result
