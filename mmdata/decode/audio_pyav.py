"""Compressed sound through PyAV (FFmpeg): which container the bytes are, and their samples as float32.

FFmpeg removes what encoders put before and after the sound (LAME's delay, Opus' pre-skip, AAC's priming under an edit
list), so that counts are those of the original. Nothing but the bytes given is ever opened: the demuxer is named here
and not guessed, for FFmpeg knows playlist formats that refer to other files.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.decode.sniff import sniff
from mmdata.errors import DataError

if TYPE_CHECKING:
    from av.audio.fifo import AudioFifo
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

DEMUXERS = {
    "mp3": "mp3",
    "aac": "aac",
    "flac": "flac",
    "ogg": "ogg",
    "mp4": "mov",
    "webm": "matroska",
    "wav": "wav",
    "aiff": "aiff",
    "au": "au",
    "caf": "caf",
    "amr": "amr",
    "nist": "nistsphere",
    "w64": "w64",
    "asf": "asf",
    "avi": "avi",
    "flv": "flv",
    "mpeg": "mpeg",
    "mpegts": "mpegts",
}
"""Containers that sound is read from, by our name and FFmpeg's."""
_MAGIC = (
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b"RF64", "wav"),
    (b"RIFX", "wav"),
    (b"NIST_1A\n", "nist"),  # the corpora of speech that the LDC gives out
    (bytes.fromhex("726966662e91cf11a5d628db04c10000"), "w64"),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "asf"),  # wma, wmv
)
"""Magic bytes that `sniff` does not know."""
_SAMPLES: dict[str, tuple[str, float]] = {
    "u8": ("u1", 2.0**-7),
    "s16": ("i2", 2.0**-15),
    "s32": ("i4", 2.0**-31),
    "s64": ("i8", 2.0**-63),
    "flt": ("f4", 1.0),
    "dbl": ("f8", 1.0),
}
"""FFmpeg's sample formats: how a sample is stored, and what makes full range 1."""
_BLOCK = 1 << 20
"""Samples times channels that are handed out at once: few pieces, as joining them takes time."""
_PIECE = 1 << 15
"""Samples times channels that are made into floats at once: few calls, and what a processor's cache holds."""
_PATIENCE = 60.0
"""Seconds after which FFmpeg gives up one request to the demuxer."""
_SILENT_PACKETS = 10_000
"""Packets in a row without a single sample after which a stream is called damaged: a demuxer may go in circles."""

Wave = npt.NDArray[np.float32]


def container(data: bytes) -> str:
    """The name in `DEMUXERS` of what the bytes are.

    Raises DataError `empty`, or `not_audio` whose detail names what they are instead.
    """
    if not data:
        raise DataError("empty", "no bytes")
    body = data
    if data[:3] == b"ID3" and len(data) > 10:  # a tag that is put before AAC and FLAC too
        size = sum((byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        body = data[10 + size : 10 + size + 16]
        if body[:4] == b"fLaC":
            return "flac"
    if body[:1] == b"\xff" and len(body) > 1 and body[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS: twelve bits set and layer 0
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:1] == b"G" and data[188:189] == b"G" and data[376:377] in (b"G", b""):
        return "mpegts"
    name = sniff(data) or f"unknown bytes: {data[:8].hex(' ')}"
    if name not in DEMUXERS:
        raise DataError("not_audio", name)
    return name


@contextlib.contextmanager
def _guarded(reason: str) -> Iterator[None]:
    """Turn what FFmpeg says of data into DataError."""
    import av

    try:
        yield
    except (av.ExitError, av.TimeoutError) as error:  # type: ignore[attr-defined]
        raise DataError("decoder_timeout", str(error)) from error
    except MemoryError as error:
        raise DataError("decoder_memory", "the decoder asked for more memory than there is") from error
    except av.FFmpegError as error:
        if reason == "bad_header" and isinstance(error, EOFError):  # within the headers: an Ogg that was cut early
            raise DataError("truncated_audio", "the file ends within its headers") from error
        raise DataError(reason, f"{type(error).__name__}: {error.strerror}") from error


class Track:
    """The best sound track of a file, decoded from its beginning. Use as a context manager; read once.

    `sample_rate` and `channels` are those of the first decoded frame, which the header may not know (HE-AAC).
    """

    sample_rate: int
    channels: int
    samples: int | None
    """As the header of a flac declares it."""
    begins: float
    """Seconds, by the file's own clock, at which the first decoded sample is heard: not 0 in films whose sound comes
    later or whose clock is a broadcast's. The frame tells it, and not the header: priming may be decoded or not."""
    floating: bool

    def __init__(self, data: bytes, format: str) -> None:
        import av

        self.format = format
        with _guarded("bad_header"):
            self._file: InputContainer = av.open(  # type: ignore[assignment]
                io.BytesIO(data),
                format=DEMUXERS[format],
                options={"threads": "1"},
                container_options={"protocol_whitelist": "none", "max_streams": "64"},
                metadata_errors="ignore",
                timeout=(_PATIENCE, _PATIENCE),
            )
        try:
            self._stream = self._pick()
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise DataError("truncated_audio", f"{format} of {len(data):,} bytes without one decodable frame")
            self._first = first
            self.floating = self._stream.codec_context.name.startswith("pcm_f")
            self.sample_rate, self.channels = first.sample_rate, first.layout.nb_channels
            self.samples = self._declared() if format == "flac" else None
            base = first.time_base
            self.begins = 0.0 if first.pts is None or base is None else float(first.pts * base)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Track:
        return self

    def __exit__(self, *exception: object) -> None:
        self._frames.close()
        self._file.close()

    def _pick(self) -> AudioStream:
        stream = self._file.streams.best("audio")
        if stream is None:
            kinds = ", ".join(stream.type for stream in self._file.streams) or "none"
            raise DataError("no_audio", f"tracks of the {self.format}: {kinds}")
        context: Any = stream.codec_context
        if context is None:
            raise DataError("unsupported_codec", f"track {stream.index} of the {self.format}: no decoder for it")
        context.thread_type, context.thread_count = "NONE", 1
        if context.name == "flac":  # A frame that does not have its checksum is otherwise played as it is.
            context.options = {"err_detect": "crccheck+explode"}
        return stream  # type: ignore[return-value]

    def _declared(self) -> int | None:
        """FFmpeg has the duration of a flac from its header, in samples, and 0 or none where that says nothing."""
        base = self._stream.time_base
        if not self._stream.duration or base is None:
            return None
        return int(self._stream.duration * base * self.sample_rate)

    def _decode(self) -> Any:
        """Frames in order. What cannot be decoded before the first sound or after the last is no part of it (tags,
        a frame cut in the middle, the second half of one whose first half is lost); between them it is damage."""
        import av

        heard, failure, silent = False, None, 0
        decode: Any = self._stream.codec_context.decode
        with _guarded("corrupt_audio"):
            for packet in self._file.demux(self._stream):
                try:
                    frames: list[AudioFrame] = decode(packet)
                except EOFError:
                    break
                except av.InvalidDataError as error:
                    failure = failure or error
                    frames = []
                silent = 0 if frames else silent + 1
                if silent > _SILENT_PACKETS:
                    raise DataError("corrupt_audio", f"{silent:,} packets in a row hold no sound")
                for frame in frames:
                    if not frame.samples:
                        continue
                    if failure and heard:
                        raise DataError(
                            "corrupt_audio", f"{self.format}: a packet between sound ones: {failure.strerror}"
                        )
                    heard, failure = True, None
                    yield frame

    def blocks(self, *, mono: bool, first: int = 0, last: int | None = None) -> Iterator[Wave]:
        """Samples first <= i < last, about a million values at a time: float32 [n], the mean of channels, or
        [channels, n].

        Raises DataError `corrupt_audio`, and `unsupported_audio` where rate or channels change on the way.
        """
        import av

        fifo = av.AudioFifo()
        block, piece = -(-_BLOCK // self.channels), -(-_PIECE // self.channels)
        gathered = _Gathered(None if mono else self.channels, block)
        at = begin = taken = due = 0  # samples decoded, first one of the pieces, first one in the buffer, when to look
        for frame in chain((self._first,), self._frames):
            at += frame.samples
            if at <= first:
                begin = taken = at
                continue
            frame.pts = None  # gaps are not filled
            try:
                fifo.write(frame)
            except ValueError:
                now = f"{frame.layout.nb_channels} channels at {frame.sample_rate} Hz as {frame.format.name}"
                raise DataError("unsupported_audio", f"the {self.format} becomes {now} on the way") from None
            if at < due:
                continue
            if last is not None and at >= last:
                break
            if at - begin >= block or at - taken >= piece:
                self._floats(fifo, gathered.more(at - taken), mono)
                taken = at
            if at - begin >= block:
                yield gathered.all()[..., max(first - begin, 0) :]
                begin = at
            due = min(begin + block, taken + piece, at + piece if last is None else last)
        if at > taken:
            self._floats(fifo, gathered.more(at - taken), mono)
        if at > begin:
            yield gathered.all()[..., max(first - begin, 0) : None if last is None else max(last - begin, 0)]

    def _floats(self, fifo: AudioFifo, into: Wave, mono: bool) -> None:
        """All that the buffer holds as float32, [n] or [channels, n]."""
        frame = fifo.read()
        assert frame is not None
        stored = frame.format.name
        kind, scale = _SAMPLES[stored.removesuffix("p")]
        if frame.format.is_planar:
            planes = [np.frombuffer(plane, kind, frame.samples) for plane in frame.planes]  # type: ignore[call-overload]
        else:
            packed = np.frombuffer(frame.planes[0], kind, frame.samples * self.channels)  # type: ignore[call-overload]
            planes = list(packed.astype(np.float32).reshape(-1, self.channels).T)
        if not mono:
            for row, plane in zip(into, planes, strict=True):
                row[:] = plane
        elif len(planes) > 1 and planes[0].dtype == np.float32:
            np.add(planes[0], planes[1], out=into)
            for plane in planes[2:]:
                into += plane
        else:
            into[:] = planes[0]
            for plane in planes[1:]:
                into += plane
        summed = self.channels if mono else 1
        if kind == "u1":
            into -= np.float32(128 * summed)
        if scale != summed:
            into *= np.float32(scale / summed)


class _Gathered:
    """Samples of one channel, or of `rows`, behind each other, in memory that is used again."""

    def __init__(self, rows: int | None, usual: int) -> None:
        self._lead = () if rows is None else (rows,)
        self._usual = usual
        self._room: Wave | None = None
        self._samples = 0

    def more(self, samples: int) -> Wave:
        """Where so many are to be put."""
        begin, end = self._samples, self._samples + samples
        if self._room is None or end > self._room.shape[-1]:
            room = memory.empty((*self._lead, max(end, self._usual)), np.float32)
            if self._room is not None:
                room[..., :begin] = self._room[..., :begin]
            self._room = room
        self._samples = end
        return self._room[..., begin:end]

    def all(self) -> Wave:
        """All that were put, after which there are none: contiguous, and in little more memory than they need."""
        assert self._room is not None
        found = self._room[..., : self._samples]
        if not found.flags.c_contiguous or self._room.size > memory.WASTE * found.size:
            found = found.copy()
        self._room, self._samples = None, 0
        return found
