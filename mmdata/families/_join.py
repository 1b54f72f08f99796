"""How the arrays of several media become one: of a pack first, of the packs of a batch then."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmdata import memory
from mmdata.types import Join


def joined(arrays: Sequence[np.ndarray], how: Join) -> np.ndarray:
    """One array of a pack's media; see `mmdata.types.Join`. What is to get a leading axis gets it in `lead`.

    >>> joined([np.ones(1), np.ones(2)], "pad").tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    if how in ("stack", "pad"):
        arrays = [array[None] for array in (_filled(arrays, 0) if how == "pad" else arrays)]
    return _concatenated(arrays)


def joined_again(arrays: Sequence[np.ndarray], how: Join, *, owned: bool = False) -> np.ndarray:
    """One array of the joined arrays of several packs: a copy, unless the only one's is `owned`, nobody else's."""
    if len(arrays) == 1 and not owned:
        copy = memory.empty(arrays[0].shape, arrays[0].dtype)
        np.copyto(copy, arrays[0])
        return copy
    return _concatenated(_filled(arrays, 1) if how == "pad" else arrays)


def _concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One array, contiguous and writable. One alone is that already, mostly: the pictures of a pack take as long to
    copy into fresh memory as to normalise."""
    if _end_to_end(arrays):
        shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        row = math.prod(shape[1:]) * arrays[0].itemsize  # not its stride, which is 0 of an axis that was put before
        return np.lib.stride_tricks.as_strided(arrays[0], shape, (row, *arrays[0].strides[1:]))
    if len(arrays) > 1:
        shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
        return np.concatenate(arrays, out=memory.empty(shape, np.result_type(*arrays)))
    alone: np.ndarray = np.require(arrays[0], requirements=("C", "W"))
    return alone


def _end_to_end(arrays: Sequence[np.ndarray]) -> bool:
    """Whether they are parts of one array that follow each other in it."""
    first = arrays[0]
    at, base = first.__array_interface__["data"][0], first.base
    for array in arrays:
        if (
            base is None
            or array.base is not base
            or array.__array_interface__["data"][0] != at
            or (array.dtype, array.shape[1:]) != (first.dtype, first.shape[1:])
            or not array.flags.carray
        ):
            return False
        at += array.nbytes
    return True


def lead(array: np.ndarray, how: Join) -> np.ndarray:
    """As the model takes it."""
    return array[None] if how == "row" else array


def _filled(arrays: Sequence[np.ndarray], first: int) -> list[np.ndarray]:
    """The arrays, each filled up with zeros at the end of every axis from `first` on to the largest of them."""
    shapes = [array.shape[first:] for array in arrays]
    if len(set(shapes)) == 1:
        return list(arrays)
    largest = np.max(shapes, axis=0).tolist()
    result = []
    for array, shape in zip(arrays, shapes, strict=True):
        whole = np.zeros((*array.shape[:first], *largest), array.dtype)
        whole[(slice(None),) * first + tuple(slice(size) for size in shape)] = array
        result.append(whole)
    return result
