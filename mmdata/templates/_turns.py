"""Samples as conversations: which parts make one message, and who says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmdata.types import Media, Text

_CLOSED = ("caption", "tool")
"""Roles of which two texts after each other are two messages: alternative captions, answers to two calls."""


@dataclass(slots=True)
class Message:
    """What one role says without being interrupted."""

    role: str
    items: list[Text | Media] = field(default_factory=list)

    @property
    def texts(self) -> list[Text]:
        return [item for item in self.items if isinstance(item, Text)]


def messages(parts: Sequence[Text | Media]) -> list[Message]:
    """The messages of a sample: parts of one role that follow each other.

    A medium says itself who sends it, or belongs to the text beside it: to the one after it, but never to an
    assistant or a system prompt when there is somebody else. Two captions, and two answers of tools, are messages
    of their own, unless the first is not trained and so leads up to the second.

    >>> user, answer = Text(text="Look:", role="user"), Text(text="A fox.", role="assistant")
    >>> [(m.role, len(m.items)) for m in messages([user, Media(kind="image"), answer])]
    [('user', 2), ('assistant', 1)]
    """
    found: list[Message] = []
    closed = False
    for role, part in zip(_roles(parts), parts, strict=True):
        if not found or found[-1].role != role or (closed and isinstance(part, Text)):
            found.append(Message(role))
        if isinstance(part, Text):
            closed = role in _CLOSED and (part.train or role == "tool")
        found[-1].items.append(part)
    return found


def _roles(parts: Sequence[Text | Media]) -> list[str]:
    """The role of each part."""
    after: list[str | None] = [None] * len(parts)
    following: str | None = None
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        if isinstance(part, Text):
            following = part.role
        after[at] = following
    roles: list[str] = []
    before: str | None = None
    for part, following in zip(parts, after, strict=True):
        if part.role is not None:
            roles.append(part.role)
        else:
            roles.append(_beside(before, following))
        if isinstance(part, Text):
            before = part.role
    return roles


def _beside(before: str | None, after: str | None) -> str:
    """Whose a medium is between a text of one role and a text of another.

    >>> _beside("user", "assistant"), _beside("system", "user"), _beside("assistant", None), _beside(None, None)
    ('user', 'user', 'user', 'user')
    """
    reluctant = ("assistant", "system")
    if before == after and before is not None:
        return before
    for role in (after, before):
        if role is not None and role not in reluctant:
            return role
    return "user"
