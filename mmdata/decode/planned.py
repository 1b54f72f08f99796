"""Encoded pictures to the pixels that a plan needs: all of them, or where a stream allows it, fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmdata.decode.image import Pixels, decode, decode_scaled, read_header
from mmdata.errors import DataError
from mmdata.types import Flip, Fork, Op, Resize

Fidelity = Literal["exact", "guarded", "fast"]
GUARDS: dict[Fidelity, float] = {"guarded": 2.0, "fast": 1.0}
"""How many times each side of the largest resize target an approximate decode leaves at least."""


def decode_for(
    data: bytes,
    ops: Sequence[Op],
    *,
    fidelity: Fidelity = "exact",
    max_pixels: int,
    size: tuple[int, int] | None = None,
) -> Pixels:
    """Upright RGB, uint8 [H, W, 3], for a plan's operations to run over; decoded once, however many branches they have.

    `exact` gives every pixel. The others are approximate and for JPEG only: where every branch begins with a resize
    (or mirrors first), the picture is decoded at 1/2, 1/4 or 1/8 in the DCT domain, as long as what is left is still
    `GUARDS[fidelity]` times the largest of their targets in each direction; the resizes go from there to the same
    sizes. Anything else is decoded exactly. How near they come is measured by `benchmarks/decode_resize.py`.

    `size`, height and width that the index knows, is checked before anything is decoded. Raises DataError
    `facts_mismatch`, and what `decode` raises.
    """
    header = read_header(data, max_pixels=max_pixels)
    if size is not None and size != (header.height, header.width):
        raise DataError("facts_mismatch", f"is {header.height} x {header.width}, the index says {size[0]} x {size[1]}")
    target = None if fidelity == "exact" else largest_target(ops)
    if target is None:
        return decode(data, max_pixels=max_pixels, header=header)
    return decode_scaled(
        data,
        min_height=target[0],
        min_width=target[1],
        max_pixels=max_pixels,
        guard=GUARDS[fidelity],
        header=header,
    )


def largest_target(ops: Sequence[Op]) -> tuple[int, int] | None:
    """The largest height and width that the first resizes of all branches ask for; None where one of them needs the
    picture's own pixels, be it for their coordinates.

    >>> from mmdata.types import Crop, Normalise
    >>> base, tiles = (Resize(336, 336),), (Resize(504, 672),)
    >>> largest_target((Fork((base, tiles)), Normalise((0.5,) * 3, (0.5,) * 3)))
    (504, 672)
    >>> largest_target((Fork((base, (Crop(0, 0, 100, 100), Resize(336, 336)))),)) is None
    True
    """
    for op in ops:
        if isinstance(op, Resize):
            return op.height, op.width
        if isinstance(op, Fork):
            targets = [largest_target(branch) for branch in op.branches]
            known = [target for target in targets if target is not None]
            if not known or len(known) < len(targets):
                return None
            return max(height for height, _ in known), max(width for _, width in known)
        if not isinstance(op, Flip):
            return None
    return None
