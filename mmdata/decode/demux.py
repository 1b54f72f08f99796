"""Open a video for demuxing, from memory or from a local file, with every limit set before FFmpeg allocates."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mmdata.decode import container
from mmdata.errors import DataError
from mmdata.types import Media

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Source = bytes | str | os.PathLike[str] | Media
"""Encoded bytes, the path of a local file, or a medium that holds either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Beyond which a video is refused by its header or packets, before memory is taken for it."""

    max_pixels: int = 8192 * 4320
    """of one frame"""
    max_frames: int = 4_000_000
    max_seconds: float = 86_400.0
    patience: float = 60.0
    """Seconds in which the demuxer must answer one request: there are files that it would read in circles."""


LIMITS = Limits()


def payload(source: Source) -> bytes | Path:
    """The bytes of a source, or the path of its file. Raises DataError `no_bytes` for a medium without either."""
    if isinstance(source, Media):
        if source.data is not None:
            return source.data
        if source.uri is None:
            raise DataError("no_bytes", "the medium holds neither bytes nor the place of a file")
        parts = urlsplit(source.uri)
        if parts.scheme not in ("", "file"):
            raise DataError("no_bytes", f"{source.uri}: fetch it first; only local files are opened here")
        return Path(unquote(parts.path) if parts.scheme else source.uri)
    return source if isinstance(source, bytes) else Path(source)


@contextlib.contextmanager
def contents(source: Source) -> Iterator[Any]:
    """The bytes of a source as something that can be sliced; a file is mapped, not read."""
    data = payload(source)
    if isinstance(data, bytes):
        yield data
        return
    try:
        with open(data, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield mapped
    except OSError as error:
        raise DataError("media_unreadable", f"{data}: {error.strerror}") from error


class guarded:
    """Turn what FFmpeg says of data into DataError: `decoder_timeout`, `decoder_memory`, else the reason given."""

    __slots__ = ("_reason",)

    def __init__(self, reason: str = "corrupt_video") -> None:
        self._reason = reason

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        import av

        if isinstance(error, av.ExitError | av.TimeoutError):  # type: ignore[attr-defined]
            raise DataError("decoder_timeout", str(error)) from error
        if isinstance(error, MemoryError):
            raise DataError("decoder_memory", "the decoder asked for more memory than there is") from error
        if isinstance(error, av.FFmpegError):
            raise DataError(self._reason, f"{type(error).__name__}: {error.strerror}") from error


@contextlib.contextmanager
def opened(
    source: Source, *, limits: Limits = LIMITS, whole: bool = True, known: bool = False
) -> Iterator[tuple[InputContainer, str]]:
    """A container and its format. With `whole` the container is checked for cuts and lies first; a source whose
    packet table is at hand was checked when that was made. With `known` the header is trusted where the format has a
    full one, and no packet is decoded to learn more: up to 20 frames otherwise. Its codec context then has no pixel
    format before the first frame.

    Raises DataError as `container.video_format` and `container.check_whole` do, and `corrupt_video`.
    """
    import av

    with contents(source) as data:
        format = container.video_format(data)
        if whole:
            container.check_whole(data, format, max_frames=limits.max_frames)
    held = payload(source)
    # Decoders take these too, while the header is read.
    options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
    if known and container.DEMUXERS[format] in ("mov", "matroska"):
        # To open a file FFmpeg decodes its first frame, most of the time of opening, to fill in what its decoder says
        # again with every frame. A decoder that skips all has read the headers.
        options |= {"probesize": "32", "skip_frame": "all"}
    with guarded():
        opened = av.open(
            io.BytesIO(held) if isinstance(held, bytes) else str(held.resolve()),
            "r",
            format=container.DEMUXERS[format],
            options=options,
            # A file that names other files (a playlist, a reference of MP4) opens none of them.
            container_options={
                "protocol_whitelist": "none" if isinstance(held, bytes) else "file",
                "max_streams": "64",
            },
            metadata_errors="ignore",
            timeout=(limits.patience, limits.patience),
        )
    with opened:
        yield opened, format


def video_stream(file: InputContainer, limits: Limits = LIMITS) -> VideoStream:
    """The best video track that is not a cover picture. Raises DataError `no_video`, `unsupported_codec`, `bad_header`,
    and `decompression_bomb` for frames of more than `limits.max_pixels`."""
    import av

    tracks = [
        stream
        for stream in file.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic  # type: ignore[attr-defined]
    ]
    if not tracks:
        raise DataError("no_video", f"tracks: {', '.join(stream.type for stream in file.streams) or 'none'}")
    best = file.streams.best("video")
    stream = best if best in tracks else tracks[0]
    context = stream.codec_context
    if context is None:
        raise DataError("unsupported_codec", f"track {stream.index}: no decoder for it")
    if context.height * context.width > limits.max_pixels:
        raise DataError(
            "decompression_bomb", f"{context.width}x{context.height} a frame, more than {limits.max_pixels:,} pixels"
        )
    if context.height < 1 or context.width < 1:
        raise DataError("bad_header", f"frames of {context.width}x{context.height} pixels")
    if stream.time_base is None or stream.time_base <= 0:
        raise DataError("bad_header", f"a time base of {stream.time_base}")
    return stream


def prepare(stream: VideoStream, *, threads: int, limits: Limits, strict: bool = False) -> None:
    """Set up the track's decoder. `strict` makes it report damage that it would otherwise paint over."""
    context = stream.codec_context
    # Standard compliance makes H.264 wait for as many reordered frames as the standard allows where the stream does
    # not say how many there are: nobody may have looked, and frames that come out too early are lost.
    options = {"max_pixels": str(limits.max_pixels), "strict": "1"}
    if strict:
        options["err_detect"] = "crccheck+bitstream+buffer+explode"
    context.options = options
    context.thread_type = "NONE" if threads == 1 else "AUTO"
    context.thread_count = threads


def packets(file: InputContainer, stream: VideoStream, *, at_most: int) -> Iterator[Packet[VideoStream]]:
    """The packets of a track from where the demuxer stands, in the order of decoding. Raises DataError
    `too_many_frames` where they do not end, and `corrupt_video`."""
    with guarded():
        for count, packet in enumerate(file.demux(stream)):
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return  # PyAV's own end mark.
            if count >= at_most:
                raise DataError("too_many_frames", f"more than {at_most:,} packets")
            yield packet


def decode(stream: VideoStream, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """What the decoder gives for a packet, or for the end of them (None). Raises DataError `corrupt_video`."""
    try:
        return stream.codec_context.decode(packet)
    except EOFError:
        return []
    except Exception:
        with guarded():
            raise
