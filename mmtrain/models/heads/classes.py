"""Names of what a head tells apart, each once."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("a class is named twice")
    return value


Classes = Annotated[tuple[str, ...], AfterValidator(_once)]
