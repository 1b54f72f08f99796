"""Positions as JSON values: short lists of integers, for states, anchors and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdata.stream.deal import Cursor
from mmdata.stream.position import Position


def to_values(position: Position) -> list[Any]:
    """Epoch, block and pack, and for a mixture the integers of each dataset's cursor.

    >>> to_values(Position(1, 2, 3))
    [1, 2, 3]
    """
    values: list[Any] = [position.epoch, position.block, position.pack]
    return [*values, [list(cursor) for cursor in position.cursors]] if position.cursors else values


def from_values(values: Sequence[Any]) -> Position:
    """The position of such values.

    >>> from_values([1, 2, 3])
    Position(epoch=1, block=2, pack=3, cursors=())
    """
    epoch, block, pack, *cursors = values
    return Position(
        int(epoch), int(block), int(pack), tuple(tuple(cursor) for cursor in (cursors[0] if cursors else ()))
    )


def cursor_to_values(cursor: Cursor) -> list[Any]:
    """A cursor, for those who share it between processes."""
    return [to_values(cursor.position), cursor.taken, cursor.first_epoch, cursor.size, cursor.dealt]


def cursor_from_values(values: Sequence[Any]) -> Cursor:
    """The cursor of such values."""
    place, taken, first_epoch, size, dealt = values
    return Cursor(
        position=from_values(place),
        taken=taken,
        first_epoch=first_epoch,
        size=size,
        dealt=tuple((ranks, micros) for ranks, micros in dealt),
    )
