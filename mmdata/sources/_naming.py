"""What a user says of the columns of tables, apart from what reads them: a command is told before it looks at any."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

ROLES = ("caption", "system", "user", "assistant", "tool", "document")


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What the user says that columns are; what is left empty is told by schema and names.

    `text` are columns in the order of tokens, each perhaps with a role (`question:user`).
    """

    image: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    video: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    conversations: str | None = None
    key: str | None = None

    def given(self) -> dict[str, Any]:
        """What is not left empty, as JSON values."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value}
