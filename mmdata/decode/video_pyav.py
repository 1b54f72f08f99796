"""The frames that are wanted, and as little else as can be: PyAV along a packet table.

Whole groups of pictures that hold no wanted frame are never read, disposable packets that nobody asked for never reach
the decoder, and only wanted frames become RGB. The result is that of decoding everything, bit for bit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.decode import demux
from mmdata.decode.demux import Limits, Source
from mmdata.decode.packets import Indices, Window, decode_at, learn, scan, seconds, windows
from mmdata.errors import DataError
from mmdata.native import library, yuv
from mmdata.types import Packets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]
Signs = tuple[int, int, int, int]
Room = Callable[[tuple[int, ...]], Pixels]
"""What gives an array of a shape to write into."""
_SEEKABLE = {"mp4", "mov", "mkv", "webm"}
"""Formats with an index, whose packets say the same of themselves after a seek. Others are read through."""
_WORTH_SEEKING = 32
"""Packets; reading past so few costs less than a seek."""


class Reader:
    """An open video that hands out packets by their position in the order of decoding."""

    def __init__(self, source: Source, table: Packets | None, *, threads: int, limits: Limits) -> None:
        self._source = source
        self.limits = limits
        self._threads = threads
        self._open = ExitStack()
        try:
            self.tail = 0
            self._start(whole=table is None)
            self.table = self._scan() if table is None else table
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._open.close()

    def sound(self) -> tuple[int, int] | None:
        """Sample rate and channels of the sound that goes with the pictures, None where there is none."""
        track = self._file.streams.best("audio")
        context: Any = None if track is None else track.codec_context
        return None if context is None or not context.sample_rate else (context.sample_rate, context.channels)

    def end(self) -> float:
        """Seconds at which the film ends: after its last frame, or as its header says, what is later (few formats tell
        how long the last frame is shown)."""
        times = seconds(self.table)
        numerator, denominator = self.table.time_base
        spacing = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        last = float(times[-1]) + max(self.tail * numerator / denominator, spacing)
        told = self._file.duration
        return last if told is None else max(last, ((self._file.start_time or 0) + told) / 1e6)

    def _scan(self) -> Packets:
        found = scan(self._file, self.format, self.limits)
        self._at, self.tail = len(found.table.pts), found.tail
        return found.table if found.timed else learn(self._source, found, self.limits)

    def _start(self, *, whole: bool = False) -> None:
        self._open.close()
        self._file, self.format = self._open.enter_context(
            demux.opened(self._source, limits=self.limits, whole=whole, known=not whole)
        )
        self.stream = demux.video_stream(self._file, self.limits)
        demux.prepare(self.stream, threads=self._threads, limits=self.limits)
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._at = 0
        self._fresh = True

    def read(self, window: Window) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """(position, packet) of what a window feeds to the decoder. Raises DataError `missing_frames`."""
        first = self._go(window.start)
        feed = window.feed.tolist()
        for position in range(window.start, window.stop):
            packet = first if first is not None else self._next()
            first = None
            if packet is None:
                raise DataError("missing_frames", f"the file ends before packet {position} of {len(self.table.pts):,}")
            if feed[position - window.start]:
                yield position, packet

    def _next(self) -> Packet[VideoStream] | None:
        if self._fresh:
            self._packets = demux.packets(self._file, self.stream, at_most=self.limits.max_frames)
            self._fresh = False
        packet = next(self._packets, None)
        self._at += packet is not None
        return packet

    def _go(self, position: int) -> Packet[VideoStream] | None:
        """Stand before the packet at `position`; or behind it, and return it."""
        ahead = position - self._at
        if self.format in _SEEKABLE and not 0 <= ahead <= _WORTH_SEEKING:
            packet = self._seek(position)
            if packet is not None:
                return packet
        if position < self._at:
            self._start()
        while self._at < position and self._next() is not None:
            pass
        return None

    def _seek(self, position: int) -> Packet[VideoStream] | None:
        """Seek to the packet at `position`, a key, and return it. None, and anything may have been read, where the
        demuxer does not find it: then reading starts over."""
        time = int(self.table.pts[position])
        if np.count_nonzero(self.table.pts == time) != 1:
            self._at = len(self.table.pts)
            return None
        with demux.guarded():
            self._file.seek(time, stream=self.stream, backward=True)
        self._fresh = True
        for _ in range(_WORTH_SEEKING):
            packet = self._next()
            if packet is None:
                break
            if packet.pts == time:
                self._at = position + 1
                return packet
        self._at = len(self.table.pts)
        return None


def frames(reader: Reader, positions: Indices) -> Iterator[tuple[int, VideoFrame]]:
    """(position, frame) for each of the packets `positions` (in the order of decoding), as the decoder gives them.

    Raises DataError `corrupt_video`, and `missing_frames` where a packet gave no frame.
    """
    wanted = set(positions.tolist())
    for window in windows(reader.table, positions):
        last: tuple[int, None] = (-1, None)
        for position, packet in itertools.chain(reader.read(window), [last]):
            for at, frame in decode_at(reader.stream, position, packet):
                if at in wanted:
                    wanted.remove(at)
                    yield at, frame
        reader.stream.codec_context.flush_buffers()
    if wanted:
        raise DataError("missing_frames", f"packets {sorted(wanted)[:5]} gave no frame, {len(wanted):,} in all")


def rgb(
    frame: VideoFrame,
    signs: Signs,
    reformatter: VideoReformatter,
    room: Room | None = None,
    *,
    read_late: bool = False,
) -> Pixels:
    """RGB made upright by the display matrix: uint8 [H, W, 3], possibly a view of the converted frame's own memory.
    One `reformatter` for all frames of a video is set up once; frames would each set up their own. `room` may be asked
    for what the frame is converted into, before it is made upright; whether that is `read_late`, when caches have
    forgotten it, makes a difference in time only.

    The conversion is swscale's default, which is what PyAV, torchcodec, decord and OpenCV give for 8-bit video. Raises
    DataError `corrupt_video`."""
    matrix = _matrix(frame)
    if matrix is not None:
        shape = (frame.height, frame.width, 3)
        pixels = memory.empty(shape, np.uint8) if room is None else room(shape)
        yuv.to_rgb(frame.planes, matrix, pixels, read_late=read_late)
        return pixels if signs == (1, 0, 0, 1) else _upright(pixels, signs)
    with demux.guarded():
        plane = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : 3 * plane.width]
    return _upright(rows.reshape(plane.height, plane.width, 3), signs)


def _matrix(frame: VideoFrame) -> yuv.Matrix | None:
    """How our own kernel converts a frame; None where swscale does it, in another way or by itself."""
    name = frame.format.name
    # swscale goes another way for frames of an odd height, and takes the fields of interlaced ones apart. Rows that lie
    # upside down are its own too.
    if (
        name not in ("yuv420p", "yuvj420p")
        or frame.height % 2
        or frame.interlaced_frame
        or library.level() < library.AVX2
        or min(plane.line_size for plane in frame.planes) < 0
    ):
        return None
    return _proven(name, int(frame.colorspace), int(frame.color_range))


@functools.cache
def _proven(name: str, colorspace: int, color_range: int) -> yuv.Matrix | None:
    """The kernel's matrix of such frames, if it gives what the swscale that is installed gives for one of noise."""
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

    matrix = yuv.matrix(colorspace, yuv.FULL_RANGE if name == "yuvj420p" else color_range)
    if matrix is None:
        return None
    frame = VideoFrame(94, 62, name)
    frame.colorspace, frame.color_range = colorspace, color_range
    noise = np.random.default_rng(0)
    for plane in frame.planes:
        plane.update(noise.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    pixels = np.empty((62, 94, 3), np.uint8)
    yuv.to_rgb(frame.planes, matrix, pixels)
    try:
        with demux.guarded():
            converted = VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()
    except DataError:
        return None
    return matrix if np.array_equal(pixels, converted) else None


def turn(frame: VideoFrame) -> Signs:
    """The signs (a, b, c, d) of a frame's display matrix, rounded to quarter turns and mirrorings: a pixel at (x, y) is
    to be shown at (a*x + c*y, b*x + d*y), y downwards (ISO/IEC 14496-12 6.2.2). Containers hold one for all frames."""
    # PyAV's side data and its frame refer to each other: what is asked is kept until the garbage collector comes, and a
    # decoded frame would keep its decoder's whole pool. So a copy of a few pixels is asked.
    with demux.guarded():
        small = frame.reformat(width=16, height=16, format="rgb24", interpolation="POINT", threads=1)
        data: Any = small.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(data, np.int32, 9))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 0, 1 if b >= 0 else -1, 1 if c >= 0 else -1, 0
    return 1 if a >= 0 else -1, 0, 0, 1 if d >= 0 else -1


def _upright(pixels: Pixels, signs: Signs) -> Pixels:
    a, b, c, d = signs
    if a == 0:
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: d or 1, :: a or 1]


def check_range(wanted: list[int], count: int) -> None:
    """Raise DataError `frame_out_of_range` for a frame that a video of `count` frames does not have."""
    for index in wanted:
        if not 0 <= index < count:
            raise DataError("frame_out_of_range", f"frame {index} of a video of {count:,} frames")
