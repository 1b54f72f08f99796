"""torchcodec and decord behind the same function: their frames where they are the same, an error where they are not."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.decode import demux, video_pyav
from mmdata.decode import packets as tables
from mmdata.decode.demux import Limits, Source
from mmdata.errors import DataError, SpecError
from mmdata.types import Packets

Pixels = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]
_CLOSE = 2e-3
"""Seconds by which decord's times, which are float32, may be off."""


def decode(
    backend: str, source: Source, wanted: list[int], table: Packets | None, *, limits: Limits, threads: int
) -> tuple[Pixels, Times]:
    """Frames uint8 [T, H, W, 3] and their times, float64 [T].

    With PyAV installed both are held against the packet table: a library that counts or times frames differently
    raises DataError `backend_differs` instead of giving other frames. `backend_unsupported` are video of more than 8
    bits, which each library converts in its own way, and for decord open groups of pictures and gradual refresh: it
    seeks into them and gives other frames than were asked for.
    """
    if importlib.util.find_spec("av") is not None:
        table = table or tables.read_packets(source, limits=limits)
        _check_depth(source, limits)
        if backend == "decord" and not _safe_to_seek(source, table, limits):
            raise DataError("backend_unsupported", "decord gives wrong frames where a key is no safe start")
    pixels, times, count = (_torchcodec if backend == "torchcodec" else _decord)(source, wanted, threads)
    if table is None:
        return pixels, times
    expected = tables.seconds(table)
    if count != len(expected):
        raise DataError("backend_differs", f"{backend} counts {count:,} frames, the packet table {len(expected):,}")
    if wanted and np.abs(times - expected[wanted]).max() > _CLOSE:
        raise DataError("backend_differs", f"{backend} gives other times than the packets have")
    return pixels, expected[wanted]


def _check_depth(source: Source, limits: Limits) -> None:
    with demux.opened(source, limits=limits, whole=False) as (file, _):
        format = demux.video_stream(file, limits).codec_context.format
    if format is not None and any(component.bits > 8 for component in format.components):
        raise DataError("backend_unsupported", f"{format.name}: only pyav decodes more than 8 bits exactly")


def _safe_to_seek(source: Source, table: Packets, limits: Limits) -> bool:
    """Whether decoding can start at all that the container calls keys, and no picture that follows one in the stream
    precedes it on the screen (open groups of pictures)."""
    is_key = table.flags & Packets.KEY != 0
    keys = np.maximum.accumulate(np.where(is_key, table.pts, np.iinfo(np.int64).min))
    if (table.pts < keys).any():
        return False
    with demux.opened(source, limits=limits, whole=False) as (file, _):
        stream = demux.video_stream(file, limits)
        called = [packet.is_keyframe for packet in demux.packets(file, stream, at_most=limits.max_frames)]
    return bool(called == is_key.tolist())


def _torchcodec(source: Source, wanted: list[int], threads: int) -> tuple[Pixels, Times, int]:
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]
    except (ImportError, OSError, RuntimeError) as error:
        raise SpecError("video backend 'torchcodec': it does not find the shared libraries of FFmpeg") from error
    data = demux.payload(source)
    try:
        reader = VideoDecoder(
            data if isinstance(data, bytes) else str(data),
            seek_mode="exact",
            num_ffmpeg_threads=threads,
            dimension_order="NHWC",
        )
        count = len(reader)
        video_pyav.check_range(wanted, count)
        batch = reader.get_frames_at(wanted)
    except (RuntimeError, ValueError) as error:
        if "Could not load libtorchcodec" in str(error):
            raise SpecError("video backend 'torchcodec': it does not find the shared libraries of FFmpeg") from error
        raise DataError("corrupt_video", f"torchcodec: {error}") from error
    return batch.data.numpy(), batch.pts_seconds.numpy(), count


def _decord(source: Source, wanted: list[int], threads: int) -> tuple[Pixels, Times, int]:
    import decord

    data = demux.payload(source)
    try:
        reader: Any = decord.VideoReader(
            io.BytesIO(data) if isinstance(data, bytes) else str(data), ctx=decord.cpu(0), num_threads=threads
        )
        count = len(reader)
        video_pyav.check_range(wanted, count)
        # decord keeps what it has decoded until its reader goes, so each call has its own.
        return reader.get_batch(wanted).asnumpy(), reader.get_frame_timestamp(wanted)[:, 0].astype(np.float64), count
    except (decord.DECORDError, RuntimeError) as error:
        raise DataError("corrupt_video", f"decord: {error}") from error
