"""Packet tables: what can be known of a video's frames without decoding one, and what to decode to get some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdata.decode import bitstream, demux
from mmdata.decode.demux import LIMITS, Limits, Source
from mmdata.errors import DataError
from mmdata.types import Packets

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one pass of the demuxer finds: the table, the duration of the last packet in its time base, and whether its
    times are the container's own (`timed`) or a demuxer's guess that has to be checked against the decoder."""

    table: Packets
    tail: int
    timed: bool


def read_packets(source: Source, *, limits: Limits = LIMITS) -> Packets:
    """The packet table of a video by one pass of its demuxer.

    `KEY` is set where decoding can start and be exact, `DISPOSABLE` by the bitstream's own syntax (H.264, HEVC, MPEG-4,
    MPEG-2); see `bitstream`. Where a container holds no times of presentation and frames are out of order (H.264 in
    AVI), the video is decoded once to learn their order.

    Raises DataError: what `demux.opened` and `demux.video_stream` raise, `no_frames`, `too_many_frames`,
    `video_too_long`.
    """
    with demux.opened(source, limits=limits) as (file, format):
        found = scan(file, format, limits)
    return found.table if found.timed else learn(source, found, limits)


def scan(file: InputContainer, format: str, limits: Limits) -> Scan:
    """The packets of an open file from where it stands to its end."""
    stream = demux.video_stream(file, limits)
    classify = bitstream.classifier(stream.codec_context.name, stream.codec_context.extradata)
    pts: list[int | None] = []
    dts: list[int | None] = []
    flags = bytearray()
    layers = bytearray()
    tail = 0
    for packet in demux.packets(file, stream, at_most=limits.max_frames):
        flag, layer = classify(memoryview(packet), packet.is_keyframe)
        if packet.is_discard or not packet.size:
            flag |= Packets.HIDDEN
        pts.append(packet.pts)
        dts.append(packet.dts)
        flags.append(flag)
        layers.append(max(layer, 0))
        tail = packet.duration or 0
    if not flags:
        raise DataError("no_frames", "the video track holds no packets")
    marks = np.frombuffer(bytes(flags), np.uint8).copy()
    marks[np.frombuffer(bytes(layers), np.uint8) < max(layers)] &= ~np.uint8(Packets.DISPOSABLE)
    timed = all(time is not None for time in pts) and (format not in _UNTIMED or pts == dts)
    base = stream.time_base
    assert base is not None  # video_stream has seen to it.
    times = _filled(pts if timed else dts)
    table = Packets(time_base=(base.numerator, base.denominator), pts=times, flags=marks)
    if len(shown(table)) == 0:
        raise DataError("no_frames", f"none of {len(flags):,} packets is shown")
    if _span(table, tail) > limits.max_seconds:
        raise DataError("video_too_long", f"{_span(table, tail):,.1f} s, more than {limits.max_seconds:,.1f}")
    return Scan(table=table, tail=tail, timed=timed)


_UNTIMED = {"avi", "m1v"}
"""Formats without times of presentation: what a demuxer gives for them is a guess."""


def _filled(times: list[int | None]) -> Indices:
    """Times where some are missing: one tick after the one before."""
    filled: list[int] = []
    for at, time in enumerate(times):
        filled.append(time if time is not None else filled[-1] + 1 if at else 0)
    return np.array(filled, np.int64)


def _span(table: Packets, tail: int) -> float:
    times = table.pts[shown(table)]
    numerator, denominator = table.time_base
    return (int(times[-1]) - int(times[0]) + tail) * numerator / denominator


def learn(source: Source, found: Scan, limits: Limits) -> Packets:
    """The table with the order of presentation that the decoder gives: its n-th frame is shown at the n-th time of
    decoding. Packets that give no frame become `HIDDEN`."""
    order = [position for position, _ in walk(source, limits=limits, strict=False)]
    if not order:
        raise DataError("no_frames", f"none of {len(found.table.pts):,} packets gives a frame")
    pts = found.table.pts.copy()
    flags = found.table.flags | np.uint8(Packets.HIDDEN)
    flags[order] &= ~np.uint8(Packets.HIDDEN)
    pts[order] = np.sort(pts[order])
    return Packets(time_base=found.table.time_base, pts=pts, flags=flags)


def walk(source: Source, *, limits: Limits = LIMITS, strict: bool) -> Iterator[tuple[int, VideoFrame]]:
    """Decode everything: (position of its packet, frame) in the decoder's order, one frame in memory at a time.

    `strict` makes damage an error that the decoder would otherwise paint over. Raises DataError `corrupt_video`.
    """
    with demux.opened(source, limits=limits, whole=False) as (file, _):
        stream = demux.video_stream(file, limits)
        demux.prepare(stream, threads=1, limits=limits, strict=strict)
        for position, packet in enumerate(demux.packets(file, stream, at_most=limits.max_frames)):
            yield from decode_at(stream, position, packet)
        yield from decode_at(stream, -1, None)


def decode_at(
    stream: VideoStream, position: int, packet: Packet[VideoStream] | None
) -> Iterator[tuple[int, VideoFrame]]:
    """(position of its packet, frame) for what the decoder gives after the packet at `position`, or after the last.

    Decoders hand the time of a packet to its frame: the position in its place tells frames apart for certain.
    """
    if packet is not None:
        packet.pts, packet.dts = position, None
    for frame in demux.decode(stream, packet):
        if frame.pts is not None:
            yield frame.pts, frame


def shown(packets: Packets) -> Indices:
    """Decode positions of the shown packets in the order of presentation: entry i is the packet of frame i.

    >>> table = Packets(time_base=(1, 10), pts=np.array([0, 2, 1]), flags=np.array([1, 0, 2], np.uint8))
    >>> shown(table).tolist()
    [0, 2, 1]
    """
    visible = np.flatnonzero(packets.flags & Packets.HIDDEN == 0)
    return visible[np.argsort(packets.pts[visible], kind="stable")]


def seconds(packets: Packets) -> npt.NDArray[np.float64]:
    """The time at which each frame is shown: float64 [frames], non-decreasing.

    >>> table = Packets(time_base=(1, 10), pts=np.array([0, 2, 1]), flags=np.array([1, 0, 2], np.uint8))
    >>> seconds(table).tolist()
    [0.0, 0.1, 0.2]
    """
    numerator, denominator = packets.time_base
    times: npt.NDArray[np.float64] = packets.pts[shown(packets)] * numerator / denominator
    return times


def keyframes(packets: Packets) -> Indices:
    """The frames (0-based, in the order of presentation) at which decoding can start: the codec's I-frames.

    >>> table = Packets(time_base=(1, 10), pts=np.array([0, 2, 1, 3]), flags=np.array([1, 0, 2, 1], np.uint8))
    >>> keyframes(table).tolist()
    [0, 3]
    """
    return np.flatnonzero(packets.flags[shown(packets)] & Packets.KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Packets start <= i < stop, in the order of decoding, of which `feed` go to the decoder; `start` is a place where
    decoding can start."""

    start: int
    stop: int
    feed: npt.NDArray[np.bool_]


def windows(packets: Packets, wanted: Sequence[int] | Indices) -> list[Window]:
    """The least to decode for packets `wanted` (positions in the order of decoding): from the last safe start before
    each to the packet itself, without disposable packets that nobody asked for.

    A start is safe for a picture only if it is also shown no later: pictures that follow an open GOP's key in the
    stream but precede it on the screen need what comes before the key.
    """
    flags, pts = packets.flags, packets.pts
    wanted = np.unique(np.asarray(wanted, np.int64))
    starts = np.flatnonzero(flags & Packets.KEY)
    spans: list[list[int]] = []
    for packet in wanted.tolist():
        at = int(np.searchsorted(starts, packet, side="right")) - 1
        while at >= 0 and pts[starts[at]] > pts[packet]:
            at -= 1
        start = int(starts[at]) if at >= 0 else 0
        while spans and start < spans[-1][1] and spans[-1][0] > start:
            start = min(start, spans.pop()[0])
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], packet + 1)
        else:
            spans.append([start, packet + 1])
    needed = flags & Packets.DISPOSABLE == 0
    needed[wanted] = True
    return [Window(start=start, stop=stop, feed=needed[start:stop]) for start, stop in spans]
