"""A place in a stream: few integers, whatever the size of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of the next pack. `cursors` say how much each dataset of a weighted mixture has given when the block
    begins; the epoch of such a stream stays 0."""

    epoch: int = 0
    block: int = 0
    pack: int = 0
    cursors: tuple[Any, ...] = ()
