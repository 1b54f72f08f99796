"""Frames to RGB by the kernel beside PyAV's: the same bits, and not a byte beside the frame read or written."""

from __future__ import annotations

import av
import hypothesis.strategies as st
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import example, given, settings

from mmdata.native import yuv
from mmdata.native.library import AVX2, level

pytestmark = [
    pytest.mark.skipif(level() < AVX2, reason="the kernel was not compiled, or needs a processor with AVX2"),
    pytest.mark.usefixtures("level"),
]


def drawn(height: int, width: int, seed: int, hard: bool, colorspace: int = 2, color_range: int = 1) -> av.VideoFrame:
    random = np.random.default_rng(seed)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        values = random.choice(np.array([0, 16, 128, 235, 255], np.uint8), plane.buffer_size)
        noise = random.integers(0, 256, plane.buffer_size, np.uint8)
        plane.update((values if hard else noise).tobytes())
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def by_pyav(frame: av.VideoFrame) -> np.ndarray:
    return VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40).map(lambda half: 2 * half), st.integers(2, 150)),
    colorspace=st.sampled_from([0, 1, 2, 4, 5, 6, 7, 9]),
    color_range=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 9),
    hard=st.booleans(),
    read_late=st.booleans(),
    away=st.integers(0, 70),
)
@example(size=(360, 640), colorspace=2, color_range=1, seed=0, hard=False, read_late=True, away=0)
@example(size=(1080, 1918), colorspace=1, color_range=1, seed=0, hard=False, read_late=True, away=3)
def test_as_libswscale(size, colorspace, color_range, seed, hard, read_late, away) -> None:  # type: ignore[no-untyped-def]
    frame = drawn(*size, seed, hard, colorspace, color_range)
    matrix = yuv.matrix(colorspace, color_range)
    assert matrix is not None
    length = 3 * size[0] * size[1]
    room = np.full(away + length + 64, 7, np.uint8)
    into = room[away : away + length].reshape(*size, 3)
    yuv.to_rgb(frame.planes, matrix, into, read_late=read_late)
    assert np.array_equal(into, by_pyav(frame))
    assert (room[:away] == 7).all()
    assert (room[away + length :] == 7).all()


def test_every_colour_of_video() -> None:
    """All lumas and blues with every fifth red."""
    frame = av.VideoFrame(512, 256, "yuv420p")
    frame.planes[0].update(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 512, axis=1).tobytes())
    frame.planes[1].update(np.repeat(np.arange(256, dtype=np.uint8)[None], 128, axis=0).tobytes())
    matrix = yuv.matrix(2, 1)
    assert matrix is not None
    for red in range(0, 256, 5):
        frame.planes[2].update(bytes([red]) * frame.planes[2].buffer_size)
        found = np.empty((256, 512, 3), np.uint8)
        yuv.to_rgb(frame.planes, matrix, found)
        assert np.array_equal(found, by_pyav(frame))


def test_what_it_does_not_take() -> None:
    assert yuv.matrix(8, 1) is None  # YCgCo
    matrix = yuv.matrix(2, 1)
    assert matrix is not None
    planes = drawn(4, 6, 0, hard=False).planes
    wide = planes[0].line_size  # rows are padded
    for size in ((1000, 6), (4, wide + 2)):
        with pytest.raises(ValueError, match="for a smaller picture"):
            yuv.to_rgb(planes, matrix, np.empty((*size, 3), np.uint8))
    read_only = np.empty((4, 6, 3), np.uint8)
    read_only.flags.writeable = False
    for into in (
        np.empty((4, 12, 3), np.uint8)[:, ::2],
        np.empty((4, 6, 3), np.uint16),
        np.empty((4, 6, 4), np.uint8),
        read_only,
    ):
        with pytest.raises(ValueError, match="a contiguous uint8"):
            yuv.to_rgb(planes, matrix, into)
