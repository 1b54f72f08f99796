"""The resizing kernel beside torch's: the same bits, at any size, and not a byte beside the picture read or written."""

from __future__ import annotations

import ctypes
import mmap

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings

from mmdata.native import resizing
from mmdata.native.library import AVX2, level

pytestmark = [
    pytest.mark.skipif(level() < AVX2, reason="the kernel was not compiled, or needs a processor with AVX2"),
    pytest.mark.usefixtures("level"),
]

SIDES = st.one_of(st.integers(1, 24), st.integers(1, 400))
EXTREMES = [0, 255]


def drawn(shape: tuple[int, ...], seed: int, hard: bool) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.choice(np.array(EXTREMES, np.uint8), shape) if hard else random.integers(0, 256, shape, np.uint8)


def by_torch(frames: np.ndarray, height: int, width: int, filter: str) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()
    resized = torch.nn.functional.interpolate(planes, size=[height, width], mode=filter, antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


@settings(max_examples=400, deadline=None)
@given(
    old=st.tuples(SIDES, SIDES),
    new=st.tuples(SIDES, SIDES),
    frames=st.integers(1, 3),
    filter=st.sampled_from(sorted(resizing.FILTERS)),
    seed=st.integers(0, 9),
    hard=st.booleans(),
    cut=st.integers(0, 4),
)
@example(old=(3000, 7), new=(1, 400), frames=1, filter="bicubic", seed=0, hard=True, cut=0)
@example(old=(7, 9000), new=(3, 2), frames=1, filter="lanczos", seed=0, hard=True, cut=1)
@example(old=(1, 1), new=(400, 400), frames=1, filter="bicubic", seed=0, hard=False, cut=0)
@example(old=(9, 5000), new=(5, 7), frames=1, filter="bilinear", seed=0, hard=True, cut=0)
@example(old=(9, 5000), new=(5, 2003), frames=2, filter="bicubic", seed=0, hard=False, cut=0)
def test_as_torch(old, new, frames, filter, seed, hard, cut) -> None:  # type: ignore[no-untyped-def]
    assume(new != (1, 1))  # torch fails then
    whole = drawn((frames, old[0], old[1] + cut, 3), seed, hard)
    source = whole[:, :, cut:]
    assert resizing.can_resize(source)
    assert np.array_equal(resizing.resize(source, *new, filter), by_torch(source, *new, filter))


@pytest.mark.parametrize("filter", sorted(resizing.FILTERS))
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 21), (37, 64), (64, 341)])
def test_it_reads_nothing_behind_the_picture(size: tuple[int, int], filter: str) -> None:
    """The picture ends where a page does, and the next page must not be touched."""
    length = 3 * size[0] * size[1]
    pages = -(-length // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    every = np.frombuffer(memory, np.uint8)
    picture = every[pages * mmap.PAGESIZE - length : pages * mmap.PAGESIZE].reshape(1, *size, 3)
    picture[:] = drawn(picture.shape, 0, hard=False)
    expected = [by_torch(picture, *to, filter) for to in ((9, 7), (size[0], 50), (50, size[1]))]
    behind = ctypes.c_void_p(every[pages * mmap.PAGESIZE :].ctypes.data)
    assert ctypes.CDLL(None).mprotect(behind, mmap.PAGESIZE, 0) == 0
    for to, pixels in zip(((9, 7), (size[0], 50), (50, size[1])), expected, strict=True):
        assert np.array_equal(resizing.resize(picture, *to, filter), pixels)


def test_what_it_does_not_take() -> None:
    frames = np.zeros((1, 4, 6, 3), np.uint8)
    assert resizing.can_resize(frames)
    assert resizing.can_resize(frames[:, ::2, 1:])
    assert not resizing.can_resize(frames[:, :, ::2])
    assert not resizing.can_resize(np.zeros((1, 3, 4, 6), np.uint8).transpose(0, 2, 3, 1))
    assert not resizing.can_resize(np.zeros((1, 4, 6, 4), np.uint8))
    assert not resizing.can_resize(frames[:, :0])
    with pytest.raises(ValueError, match="0 x 3"):
        resizing.resize(frames, 0, 3, "bilinear")
