"""Facts of a video without decoding it (but for its first frame), and the proof that all of it decodes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Literal

import numpy as np

from mmdata.decode import demux, video_pyav
from mmdata.decode import packets as tables
from mmdata.decode.demux import LIMITS, Limits, Source
from mmdata.errors import DataError
from mmdata.types import Media, Packets

Verify = Literal["header", "full"]


def read_facts(source: Source, *, verify: Verify = "header", limits: Limits = LIMITS) -> Media:
    """The facts of a video as a Media without bytes: `format`, upright `height` and `width`, `frames` (those shown),
    `seconds` (from the first frame to the end of the last), `fps` (their quotient), the `packets`; and `sample_rate`
    and `channels` of its sound, None where it is silent.

    One pass over the packets; the first frame is decoded, since a header may promise pictures that do not come. With
    `verify="full"` all frames are, as `prove` does, and the sound, which gives its `samples`. Raises DataError as
    `read_packets` and `prove` do, and as `audio.read_facts` does.
    """
    facts = _from_headers(source, limits)
    if verify == "header":
        return facts
    assert facts.packets is not None, "_from_headers has read them"
    packets = prove(source, facts.packets, limits=limits)
    frames = len(tables.shown(packets))
    fps = frames / facts.seconds if facts.seconds else None
    facts = replace(facts, packets=packets, frames=frames, fps=fps, verified="full")
    if facts.channels is None:
        return facts
    from mmdata.decode import audio

    data = demux.payload(source)
    sound = audio.read_facts(
        data if isinstance(data, bytes) else data.read_bytes(), verify="full", max_seconds=limits.max_seconds
    )
    return replace(facts, sample_rate=sound.sample_rate, channels=sound.channels, samples=sound.samples)


def _from_headers(source: Source, limits: Limits) -> Media:
    with closing(video_pyav.Reader(source, None, threads=1, limits=limits)) as reader:
        table = reader.table
        order = tables.shown(table)
        height, width = _first_size(reader, int(order[0]))
        times = table.pts[order]
        numerator, denominator = table.time_base
        span = int(times[-1]) - int(times[0])
        ticks = span + (reader.tail or (span / (len(times) - 1) if len(times) > 1 else 0))
        seconds = ticks * numerator / denominator
        sound = reader.sound()
        return Media(
            kind="video",
            format=reader.format,
            height=height,
            width=width,
            frames=len(order),
            fps=len(order) / seconds if seconds > 0 else None,
            seconds=seconds,
            sample_rate=sound[0] if sound else None,
            channels=sound[1] if sound else None,
            packets=table,
            verified="header",
        )


def _first_size(reader: video_pyav.Reader, position: int) -> tuple[int, int]:
    _, frame = next(video_pyav.frames(reader, np.array([position])))
    if frame.height * frame.width > reader.limits.max_pixels:
        raise DataError("decompression_bomb", f"{frame.width}x{frame.height} a frame")
    turned = video_pyav.turn(frame)[0] == 0
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def prove(source: Source, packets: Packets, *, limits: Limits = LIMITS) -> Packets:
    """Prove that every frame of a video decodes, in the memory of one frame; returns the table with those packets
    `HIDDEN` that turn out to give no frame (second fields, what precedes the first key).

    Damage that decoders paint over is an error here. Raises DataError: `corrupt_video`, `no_frames`,
    `frame_size_changes`, `missing_frames` where less than half of the packets give a frame.
    """
    size: tuple[int, int, str] | None = None
    given = []
    for position, frame in tables.walk(source, limits=limits, strict=True):
        found = (frame.height, frame.width, frame.format.name)
        size = size or found
        if found != size:
            raise DataError("frame_size_changes", f"packet {position}: from {size} to {found}")
        given.append(position)
    expected = tables.shown(packets)
    if not given:
        raise DataError("no_frames", f"none of {len(packets.pts):,} packets gives a frame")
    missing = np.setdiff1d(expected, given)
    if not len(missing):
        return packets
    if 2 * len(missing) > len(expected):
        raise DataError("missing_frames", f"{len(missing):,} of {len(expected):,} packets give no frame")
    flags = packets.flags.copy()
    flags[missing] |= np.uint8(Packets.HIDDEN)
    return replace(packets, flags=flags)
