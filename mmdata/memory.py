"""Memory for large arrays, used again once nobody looks at them any more.

The kernel hands out fresh memory page by page, zeroed, at the first touch: for the patches of a picture that takes as
long as to make them, and malloc gives such large blocks back as soon as they are free. Here a few are kept.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 1 << 20
"""Bytes; what is smaller malloc keeps by itself."""
KEPT = 1 << 28
"""Bytes that are kept free in a process; those that have waited longest go first."""
WASTE = 1.5
"""An array may lie in a block so many times its size."""

Block = npt.NDArray[np.uint8]


class Pool:
    """Blocks of memory and the arrays in them."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self.free: list[Block] = []
        """Those that have waited longest first."""
        self._returned: deque[Block] = deque()
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """As `np.empty`: contiguous and writable, its values anything."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < LEAST:
            return np.empty(shape, kind)
        with self._lock:
            block = self._taken(size)
        if block is None:
            block = np.empty(size, np.uint8)
        return np.asarray(_Lease(block, self))[:size].view(kind).reshape(shape)

    def _taken(self, size: int) -> Block | None:
        """The smallest free block that takes so many bytes and is not much too large."""
        self._settle()
        fitting = [(block.size, at) for at, block in enumerate(self.free) if size <= block.size <= WASTE * size]
        return self.free.pop(min(fitting)[1]) if fitting else None

    def give_back(self, block: Block) -> None:
        """An array may end anywhere, in any thread, in the middle of this pool's own work too: what holds the lock then
        sees to the block, or who comes next."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        while self._returned:
            self.free.append(self._returned.popleft())
        size = sum(block.size for block in self.free)
        while size > self.kept:
            size -= self.free.pop(0).size

    def forget(self) -> None:
        """Begin anew, as a forked process does: the lock may have been another thread's."""
        self.__init__(self.kept)  # type: ignore[misc]


class _Lease:
    """What the arrays of a block hold on to: it goes with the last of them, and the block comes back."""

    __slots__ = ("__array_interface__", "_block", "_pool")

    def __init__(self, block: Block, pool: Pool) -> None:
        self._block, self._pool = block, pool
        self.__array_interface__: dict[str, Any] = block.__array_interface__

    def __del__(self) -> None:
        self._pool.give_back(self._block)


_pool = Pool()
os.register_at_fork(after_in_child=_pool.forget)
empty = _pool.empty
