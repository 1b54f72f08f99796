"""Frames to RGB by the kernel beside PyAV's: the same bits, and not a byte beside the frame read or written."""

from __future__ import annotations

import av
import hypothesis.strategies as st
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import example, given, settings

from mmdata.native import yuv
from mmdata.native.library import avx512

pytestmark = pytest.mark.skipif(not avx512(), reason="the kernel was not compiled, or needs a processor with AVX-512")


def drawn(height: int, width: int, seed: int, hard: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    shapes = ((height, width), half, half)
    if hard:
        return tuple(random.choice(np.array([0, 16, 128, 235, 255], np.uint8), shape) for shape in shapes)  # type: ignore[return-value]
    return tuple(random.integers(0, 256, shape, np.uint8) for shape in shapes)  # type: ignore[return-value]


def by_pyav(planes: tuple[np.ndarray, ...], colorspace: int, color_range: int) -> np.ndarray:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = values
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = colorspace, color_range
    plane = VideoReformatter().reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
    return rows[:, : 3 * width].reshape(height, width, 3)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40).map(lambda half: 2 * half), st.integers(2, 150)),
    colorspace=st.sampled_from([0, 1, 2, 4, 5, 6, 7, 9]),
    color_range=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 9),
    hard=st.booleans(),
    cut=st.integers(0, 3),
)
@example(size=(360, 640), colorspace=2, color_range=1, seed=0, hard=False, cut=0)
@example(size=(1080, 1918), colorspace=1, color_range=1, seed=0, hard=False, cut=0)
def test_as_libswscale(size, colorspace, color_range, seed, hard, cut) -> None:  # type: ignore[no-untyped-def]
    planes = drawn(*size, seed, hard)
    matrix = yuv.matrix(colorspace, color_range)
    assert matrix is not None
    room = np.full((size[0], size[1] + cut, 3), 7, np.uint8)
    yuv.to_rgb(planes, matrix, room[:, : size[1]])
    assert np.array_equal(room[:, : size[1]], by_pyav(planes, colorspace, color_range))
    assert (room[:, size[1] :] == 7).all()


def test_every_colour_of_video() -> None:
    """All lumas and blues with every fifth red."""
    luma = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 512, axis=1)
    blue = np.repeat(np.arange(256, dtype=np.uint8)[None], 128, axis=0)
    matrix = yuv.matrix(2, 1)
    assert matrix is not None
    for value in range(0, 256, 5):
        planes = luma, blue, np.full((128, 256), value, np.uint8)
        found = np.empty((256, 512, 3), np.uint8)
        yuv.to_rgb(planes, matrix, found)
        assert np.array_equal(found, by_pyav(planes, 2, 1))


def test_what_it_does_not_take() -> None:
    assert yuv.matrix(8, 1) is None  # YCgCo
    matrix = yuv.matrix(2, 1)
    assert matrix is not None
    y, u, v = drawn(4, 6, 0, hard=False)
    with pytest.raises(ValueError, match="planes"):
        yuv.to_rgb((y, u[:1], v), matrix, np.empty((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="planes"):
        yuv.to_rgb((y, u, v), matrix, np.empty((4, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="follow each other"):
        yuv.to_rgb((y, u, v), matrix, np.empty((4, 12, 3), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="bytes"):
        yuv.to_rgb((y, u, v), matrix, np.empty((4, 6, 3), np.int8))
