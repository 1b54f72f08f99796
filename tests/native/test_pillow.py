"""The kernels beside Pillow: the same bits, at any size, and not a byte beside the picture read or written."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from PIL import Image

from mmdata.native import pillow
from tests.native.test_resizing import drawn


def kernels(test: Callable[..., None]) -> Callable[..., None]:
    able = pytest.mark.skipif(not pillow.by_kernels(), reason="not compiled, no AVX2, or a Pillow of another major")
    return able(pytest.mark.usefixtures("level")(test))


SIDES = st.one_of(st.integers(1, 24), st.integers(1, 400))
GAPS = [None, 1.0, 1.1, 1.5, 2.0, 3.0]


def by_pillow(pixels: np.ndarray, height: int, width: int, filter: str, gap: float | None) -> np.ndarray:
    flag = Image.Resampling[filter.upper()]
    return np.asarray(Image.fromarray(pixels).resize((width, height), flag, reducing_gap=gap))


def compare(pixels: np.ndarray, height: int, width: int, filter: Any, gap: float | None) -> None:
    found = pillow._resized(pixels, height, width, filter, gap)  # Without Pillow's help.
    assert found is not None
    np.testing.assert_array_equal(found, by_pillow(pixels, height, width, filter, gap))


@kernels
@settings(max_examples=500, deadline=None)
@given(
    old=st.tuples(SIDES, SIDES),
    new=st.tuples(SIDES, SIDES),
    filter=st.sampled_from(pillow.FILTERS),
    gap=st.sampled_from(GAPS),
    seed=st.integers(0, 9),
    hard=st.booleans(),
    cut=st.integers(0, 4),
)
@example(old=(3000, 7), new=(1, 400), filter="bicubic", gap=None, seed=0, hard=True, cut=0)
@example(old=(7, 9000), new=(3, 2), filter="lanczos", gap=None, seed=0, hard=True, cut=1)
@example(old=(2, 9000), new=(300, 1), filter="hamming", gap=1.5, seed=0, hard=False, cut=1)
@example(old=(5000, 3), new=(1, 300), filter="hamming", gap=1.0, seed=0, hard=True, cut=1)
@example(old=(4000, 39), new=(300, 20), filter="bicubic", gap=None, seed=0, hard=True, cut=0)
@example(old=(4000, 40), new=(300, 20), filter="bicubic", gap=None, seed=0, hard=True, cut=0)
@example(old=(400, 3), new=(401, 2), filter="bicubic", gap=None, seed=0, hard=True, cut=0)
@example(old=(1, 1), new=(400, 400), filter="bicubic", gap=1.0, seed=0, hard=False, cut=0)
@example(old=(60, 60), new=(60, 60), filter="lanczos", gap=1.0, seed=0, hard=False, cut=0)
def test_as_pillow(old, new, filter, gap, seed, hard, cut) -> None:  # type: ignore[no-untyped-def]
    compare(drawn((old[0], old[1] + cut, 3), seed, hard)[:, cut:], *new, filter, gap)


@kernels
@settings(max_examples=200, deadline=None)
@given(
    old=st.tuples(SIDES, SIDES),
    less=st.integers(0, 399),
    off=st.integers(-1, 1),
    filter=st.sampled_from(pillow.FILTERS),
    hard=st.booleans(),
)
def test_where_the_order_of_the_passes_turns(old, less, off, filter, hard) -> None:  # type: ignore[no-untyped-def]
    """Heights that shrink by about twice what the width does, or grow."""
    rows, columns = old
    width = max(1, columns - less)
    height = max(1, rows - 2 * (columns - width) + off)
    compare(drawn((rows, columns, 3), 0, hard), height, width, filter, None)


@kernels
def test_the_order_of_the_passes_shows() -> None:
    """Else the tests above would not tell one from the other: Pillow 12 has one order, and from 12.2 on another for
    pictures that are 100 times as high as wide; 13 has other rules again."""
    for rows, columns, height, width in ((300, 40, 30, 35), (3000, 7, 1, 40), (300, 40, 300, 20), (300, 40, 400, 20)):
        pixels = drawn((rows, columns, 3), 0, hard=True)
        found = [_ordered(pixels, height, width, first) for first in (False, True)]
        assert np.array_equal(*found) == (rows == height)
        first = pillow._vertical_first(rows, columns, height, width)
        np.testing.assert_array_equal(found[first], by_pillow(pixels, height, width, "bicubic", None))


def _ordered(pixels: np.ndarray, height: int, width: int, vertical_first: bool) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pillow, "_vertical_first", lambda *sizes: vertical_first)
        found = pillow._resized(pixels, height, width, "bicubic", None)
    assert found is not None
    return found


@kernels
@settings(max_examples=300, deadline=None)
@given(size=st.tuples(SIDES, SIDES), factor=st.integers(1, 60), hard=st.booleans(), cut=st.integers(0, 4))
@example(size=(1, 1), factor=400, hard=True, cut=0)
@example(size=(700, 700), factor=699, hard=True, cut=0)
def test_reduce_as_pillow(size: tuple[int, int], factor: int, hard: bool, cut: int) -> None:
    pixels = drawn((size[0], size[1] + cut, 3), 1, hard)[:, cut:]
    np.testing.assert_array_equal(pillow.reduce(pixels, factor), np.asarray(Image.fromarray(pixels).reduce(factor)))


@kernels
@pytest.mark.parametrize("tall", [1, 2, 3, 4, 5, 7, 300])
@pytest.mark.parametrize("wide", [1, 2, 3, 4, 5, 6, 8, 9, 17, 18, 19, 300])
def test_every_shape_of_block(tall: int, wide: int) -> None:
    for height, width in ((3 * tall, 11 * wide), (2 * tall + 1, 6 * wide + wide // 2), (tall, wide)):
        for hard in (False, True):
            pixels = drawn((height, width, 3), 2, hard)
            expected = np.asarray(Image.fromarray(pixels).reduce((wide, tall)))
            np.testing.assert_array_equal(pillow._reduced(pixels, tall, wide), expected)


@kernels
def test_sums_at_both_ends() -> None:
    """White and black, and every mean between, of blocks whose reciprocal is rounded up or down."""
    for level in (0, 1, 127, 128, 254, 255):
        pixels = np.full((97, 91, 3), level, np.uint8)
        for factor in range(1, 98):
            np.testing.assert_array_equal(
                pillow.reduce(pixels, factor), np.asarray(Image.fromarray(pixels).reduce(factor))
            )
        for filter in pillow.FILTERS:
            assert (pillow.resize(pixels, 31, 200, filter, None) == level).all()


@kernels
@pytest.mark.parametrize("filter", pillow.FILTERS)
def test_photographs_sizes(filter: Any) -> None:
    for rows, columns in ((1000, 1500), (1500, 1000), (683, 1024), (427, 640)):
        pixels = drawn((rows, columns, 3), 3, hard=False)
        scale = 256 / min(rows, columns)
        for gap in (None, 1.5):
            compare(pixels, round(rows * scale), round(columns * scale), filter, gap)


@kernels
def test_rows_may_lie_anywhere() -> None:
    whole = drawn((61, 83, 3), 4, hard=False)
    for pixels in (whole[::-1], whole[::2], whole[5:, 3:-7], np.broadcast_to(whole[:1], whole.shape)):
        assert pillow._taken(pixels)
        for gap in (None, 1.0):
            compare(pixels, 9, 13, "hamming", gap)
            compare(pixels, 9, 80, "hamming", gap)


@kernels
@pytest.mark.parametrize("filter", pillow.FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 21), (37, 64), (64, 341)])
def test_it_reads_nothing_behind_the_picture(size: tuple[int, int], filter: Any) -> None:
    """The picture ends where a page does, and the next page must not be touched."""
    length = 3 * math.prod(size)
    pages = -(-length // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    every = np.frombuffer(memory, np.uint8)
    pixels = every[pages * mmap.PAGESIZE - length : pages * mmap.PAGESIZE].reshape(*size, 3)
    pixels[:] = drawn(pixels.shape, 0, hard=False)
    wanted = [(*to, filter, gap) for to in ((9, 7), (size[0], 50), (50, size[1]), (2, 2)) for gap in (None, 1.0)]
    expected = [by_pillow(pixels, *one) for one in wanted]
    means = [np.asarray(Image.fromarray(pixels).reduce(factor)) for factor in range(1, 24)]
    behind = ctypes.c_void_p(every[pages * mmap.PAGESIZE :].ctypes.data)
    assert ctypes.CDLL(None).mprotect(behind, mmap.PAGESIZE, 0) == 0
    for one, truth in zip(wanted, expected, strict=True):
        np.testing.assert_array_equal(pillow._resized(pixels, *one), truth)
    for factor, truth in zip(range(1, 24), means, strict=True):
        np.testing.assert_array_equal(pillow.reduce(pixels, factor), truth)


def test_what_the_kernels_do_not_take_pillow_does() -> None:
    pixels = drawn((12, 18, 3), 5, hard=False)
    turned = pixels.transpose(1, 0, 2)
    assert not pillow._taken(turned)
    assert not pillow._taken(pixels[:, ::2])
    assert not pillow._taken(pixels[:, :0])
    for gap in (None, 1.0):
        picture = Image.fromarray(pixels)
        np.testing.assert_array_equal(
            pillow.resize(picture, 5, 4, "hamming", gap), by_pillow(pixels, 5, 4, "hamming", gap)
        )
        np.testing.assert_array_equal(
            pillow.resize(turned, 5, 4, "hamming", gap), by_pillow(np.ascontiguousarray(turned), 5, 4, "hamming", gap)
        )
    np.testing.assert_array_equal(
        pillow.reduce(turned, 3), np.asarray(Image.fromarray(pixels).reduce(3)).transpose(1, 0, 2)
    )
    with pytest.raises(ValueError, match="0 x 3"):
        pillow.resize(pixels, 0, 3, "bicubic")


def test_another_pillow_does_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow.PIL, "__version__", "99.1.0.dev0")
    for known in (pillow.by_kernels, pillow._version):
        known.cache_clear()
    try:
        assert not pillow.by_kernels()
        pixels = drawn((12, 18, 3), 5, hard=False)
        np.testing.assert_array_equal(pillow.resize(pixels, 5, 4, "lanczos"), by_pillow(pixels, 5, 4, "lanczos", None))
    finally:
        monkeypatch.undo()
        for known in (pillow.by_kernels, pillow._version):
            known.cache_clear()
