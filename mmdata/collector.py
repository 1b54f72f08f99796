"""Python's garbage collector, out of the way while much is made that stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Without the collector, which would walk all that has been made so far again and again: a fifth to two thirds of
    the time that making a great many small objects takes. For work that leaves no circles behind, as it holds for all
    threads; it counts references meanwhile as ever."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
