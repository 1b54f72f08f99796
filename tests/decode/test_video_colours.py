"""Colours of frames: PyAV's, whoever converts them, and our own kernel where it is able to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest

from mmdata.decode import video, video_pyav
from mmdata.native import yuv
from mmdata.native.library import AVX2, level
from tests.decode.clips import clip

OURS = {
    "plain": {},
    "width of no block": {"width": 130},
    "bt709": {"colour": (1, 1)},
    "bt2020": {"colour": (9, 1)},
    "smpte240m": {"colour": (7, 0)},
    "full range": {"colour": (5, 2)},
    "yuvj420p": {"codec": "mjpeg", "pixels": "yuvj420p", "format": "matroska", "between": 0, "colour": (5, 2)},
    "turned": {"rotate": 90},
}
OTHERS = {
    "interlaced": {"options": "tff=1"},
    "4:2:2": {"pixels": "yuv422p"},
    "4:4:4": {"pixels": "yuv444p"},
    "10 bits": {"pixels": "yuv420p10le"},
    "odd height": {"codec": "ffv1", "format": "matroska", "height": 95, "width": 127},
}


def by_pyav(data: bytes) -> Iterator[np.ndarray]:
    with av.open(io.BytesIO(data)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the frames that the kernel has converted."""
    shapes: list[tuple[int, ...]] = []
    to_rgb = yuv.to_rgb

    def counted(planes: Any, matrix: Any, into: np.ndarray, **options: Any) -> None:
        shapes.append(into.shape)
        to_rgb(planes, matrix, into, **options)

    monkeypatch.setattr(yuv, "to_rgb", counted)
    return shapes


@pytest.mark.parametrize("kind", OURS | OTHERS)
def test_frames_are_pyavs(kind: str, converted: list[tuple[int, ...]]) -> None:
    data = clip(frames=7, **(OURS | OTHERS)[kind])
    expected = np.stack(list(by_pyav(data)))
    if kind == "turned":
        expected = np.rot90(expected, axes=(1, 2))
    found = video.decode_frames(data, range(7)).pixels.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(converted) in ((7, 8) if kind in OURS and level() >= AVX2 else (0,))  # one more proves it
    for numbers, frames in video.iter_frames(data, chunk=3, overlap=1):
        np.testing.assert_array_equal(frames.pixels.permute(0, 2, 3, 1).numpy(), expected[numbers])
    for (index,), frames in video.iter_frames(data, [1, 4], chunk=1):
        np.testing.assert_array_equal(frames.pixels[0].permute(1, 2, 0).numpy(), expected[index])
    for seconds, pixels in video.pictures(data, [2, 3]):
        np.testing.assert_array_equal(pixels, expected[round(seconds * 30)])


def test_a_frame_that_lies_upside_down(converted: list[tuple[int, ...]]) -> None:
    """FFmpeg gives raw video rows of a negative length where its header says that the lowest comes first."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        track: Any = file.add_stream("rawvideo", rate=30)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.extradata = b"BottomUp\0"
        noise = np.random.default_rng(0).integers(0, 256, (72, 64), np.uint8)
        file.mux(track.encode(av.VideoFrame.from_ndarray(noise, format="yuv420p")))
        file.mux(track.encode())
    data = out.getvalue()
    with av.open(io.BytesIO(data)) as file:
        (frame,) = file.decode(video=0)
        assert frame.planes[0].line_size < 0
    found = video.decode_frames(data, [0]).pixels.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, np.stack(list(by_pyav(data))))
    assert not converted


@pytest.mark.parametrize("size", [(96, 128), (90, 162)])
def test_large_batches_pass_the_caches(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "LARGE", 1)
    data = clip(frames=5, height=size[0], width=size[1])
    expected = np.stack(list(by_pyav(data)))
    found = video.decode_frames(data, [4, 1, 2, 1]).pixels.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected[[4, 1, 2, 1]])
    for numbers, frames in video.iter_frames(data, chunk=2):
        np.testing.assert_array_equal(frames.pixels.permute(0, 2, 3, 1).numpy(), expected[numbers])


@pytest.mark.skipif(level() < AVX2, reason="the kernel was not compiled, or needs a processor with AVX2")
def test_a_swscale_that_converts_otherwise_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, converted: list[tuple[int, ...]]
) -> None:
    """As another version might: the kernel is compared with what is installed before it is used."""
    monkeypatch.setitem(yuv._MATRICES, 2, (104597, 132201, 25675, 54000))
    for cached in (yuv.matrix, video_pyav._proven):
        cached.cache_clear()
    data = clip(frames=3)
    found = video.decode_frames(data, range(3)).pixels.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, np.stack(list(by_pyav(data))))
    assert len(converted) == 1
    for cached in (yuv.matrix, video_pyav._proven):
        cached.cache_clear()
