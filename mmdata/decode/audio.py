"""Sound: encoded bytes to facts, and to a float32 waveform at the rate that is asked for.

WAV and FLAC are read here (FLAC by libsndfile without our kernel), everything else by FFmpeg; for what two of them read
they give the same numbers.
Channels are averaged before resampling, and limits are checked from the header and again while samples arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mmdata.decode import audio_pyav, flac, wav
from mmdata.decode.resample import before, resample_blocks, resampled_length, until
from mmdata.errors import DataError
from mmdata.types import Media

if TYPE_CHECKING:
    from typing import Literal

    import torch

SAMPLE_RATE = 16_000
MAX_SECONDS = 3600.0
"""Default limit of the length of one file."""
MAX_CHANNELS = 64
MAX_RATE = 768_000
MAX_VALUES = 1 << 28
"""Samples times channels that are held at once: 1 GiB of float32, 4.6 hours of mono at 16 kHz."""


class _Source(Protocol):
    """An opened file: `samples` of one channel as its header declares them, or None."""

    @property
    def format(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def samples(self) -> int | None: ...
    @property
    def floating(self) -> bool:
        """Whether it stores floats as they are, and so may hold what is no number."""
        ...

    def blocks(self, *, mono: bool, first: int = 0, last: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Samples first <= i < last in order: float32 [n], or [channels, n] without `mono`."""
        ...


def decode(
    data: bytes,
    *,
    sample_rate: int | None = SAMPLE_RATE,
    mono: bool = True,
    start: int | None = None,
    stop: int | None = None,
    max_seconds: float = MAX_SECONDS,
) -> torch.Tensor:
    """The waveform: float32 [samples], the mean of the channels, or [channels, samples] without `mono`; full range is
    -1..1, which lossy codecs overshoot.

    Reads wav, flac, mp3, ogg (vorbis, opus), m4a/aac, aiff, au, caf, amr, w64, NIST SPHERE, wma and the best sound
    track of mp4, mkv, webm, avi, flv, mpeg, mpegts and wmv. `sample_rate` in Hz, or None for the file's own; resampling
    is that of `torchaudio.functional.resample`. `start` and `stop` count samples of the answer:
    `decode(data)[start:stop]`, without holding the rest.

    Of a file that ends early the samples that are there are answered (wav with a header that promises more; mp3, ogg
    and others whose last packet is cut). Raises DataError: `empty`, `not_audio`, `no_audio`, `bad_header`,
    `truncated_audio` (no sample can be had, or a flac has fewer than it declares), `corrupt_audio`,
    `unsupported_audio`, `unsupported_codec`, `audio_too_long` (more than `max_seconds`, or than fits 1 GiB),
    `decoder_memory`, `decoder_timeout`.
    """
    import torch

    first, last = start or 0, stop
    if first < 0 or (last is not None and last < 0) or (sample_rate is not None and sample_rate < 1):
        raise ValueError(f"start {start}, stop {stop} and sample_rate {sample_rate} count from 0, 0 and 1")
    with ExitStack() as stack:
        source = _open(data, stack)
        native = source.sample_rate
        rate = sample_rate or native
        begin, end = before(first, native, rate), None if last is None else until(last, native, rate)
        rows = 1 if mono else source.channels
        blocks = _bounded(source, mono=mono, first=begin, last=end, max_seconds=max_seconds)
        waves = (torch.from_numpy(block).reshape(rows, -1) for block in blocks)
        wave = _joined(resample_blocks(waves, native, rate), rows)
    begun = resampled_length(begin, native, rate)
    if mono:
        wave = wave[0]
    return wave[..., first - begun : None if last is None else max(first, last) - begun]


def read_facts(data: bytes, *, verify: Literal["header", "full"] = "full", max_seconds: float = MAX_SECONDS) -> Media:
    """What the bytes hold, as a `Media` of kind audio without the bytes: format, seconds, sample_rate, channels, and
    samples of one channel.

    `samples` is the number that `decode` answers at the file's own rate, or None where only decoding tells:

    - wav: from the header and the bytes that follow, always;
    - flac: as declared by the header (`full` proves it), or None where that says 0;
    - all others: `full` decodes the whole file. Headers do not know: mp3 has none, and what encoders added before
      and after the sound is removed by the decoder.

    With `verify="header"` only the first frame is decoded. Raises DataError as `decode` does.
    """
    with ExitStack() as stack:
        source = _open(data, stack)
        samples = source.samples
        if samples is not None:
            _check_length(samples, source.sample_rate, max_seconds)
        if verify == "full":
            blocks = _bounded(source, mono=True, first=0, last=None, max_seconds=max_seconds)
            samples = sum(block.shape[-1] for block in blocks)
        return Media(
            kind="audio",
            format=source.format,
            seconds=None if samples is None else samples / source.sample_rate,
            sample_rate=source.sample_rate,
            channels=source.channels,
            samples=samples,
            verified=verify,
        )


def first_samples(data: bytes, most: float) -> tuple[npt.NDArray[np.float32], int]:
    """The mean of the channels of the first `most` seconds, float32 [samples], and its rate, which is the file's own:
    what there is to hear and see of a file of any length, without torch. Raises DataError as `decode` does."""
    with ExitStack() as stack:
        source = _open(data, stack)
        last = round(most * source.sample_rate)
        found = list(_bounded(source, mono=True, first=0, last=last, max_seconds=most + 1))
        wave = np.concatenate([np.zeros(0, np.float32), *(block.reshape(-1) for block in found)])
        return wave[:last], source.sample_rate


def begins(data: bytes) -> float:
    """When the sound of a film begins, in seconds by the same clock as the times of its frames: what `decode` answers
    has the first sample then. Decodes one frame. Raises DataError as `decode` does."""
    with ExitStack() as stack:
        return begun(_open(data, stack))


def begun(source: _Source) -> float:
    """`begins` of what is opened; WAV and FLAC have no clock of their own."""
    return source.begins if isinstance(source, audio_pyav.Track) else 0.0


def _open(data: bytes, stack: ExitStack) -> _Source:
    """Raises DataError also for rates and channels that no sound has."""
    format = audio_pyav.container(data)
    source: _Source | None = None
    if format == "wav":
        header = wav.read_header(data)
        if header.plain:
            source = wav.Wav(data, header)
    elif format == "flac":
        source = flac.open_flac(data)
    if source is None:
        source = stack.enter_context(audio_pyav.Track(data, format))
    if not (1 <= source.sample_rate <= MAX_RATE and 1 <= source.channels <= MAX_CHANNELS):
        raise DataError("bad_header", f"{source.channels} channels at {source.sample_rate} Hz")
    return source


def _bounded(
    source: _Source, *, mono: bool, first: int, last: int | None, max_seconds: float
) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks of the source, until they are too many, or hold what is no sound: one NaN spoils a whole batch."""
    if source.samples is not None:
        _check_length(min(source.samples, last or source.samples), source.sample_rate, max_seconds)
    at = first
    for block in source.blocks(mono=mono, first=first, last=last):
        at += block.shape[-1]
        _check_length(at, source.sample_rate, max_seconds)
        yield checked(source, block)
    if source.format == "flac" and last is None and source.samples is not None and at < source.samples:
        raise DataError("truncated_audio", f"flac of {at:,} samples that declares {source.samples:,}")


def checked(source: _Source, block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same block. Raises DataError `corrupt_audio` where floats of the file are no numbers."""
    if source.floating and not np.isfinite(block).all():
        raise DataError("corrupt_audio", f"{source.format}: samples that are not finite (NaN or infinity)")
    return block


def _check_length(samples: int, rate: int, max_seconds: float) -> None:
    if samples > max_seconds * rate:
        raise DataError("audio_too_long", f"{samples / rate:,.0f} s or more, {max_seconds:,.0f} are allowed")


def _joined(waves: Iterator[torch.Tensor], rows: int) -> torch.Tensor:
    """Pieces [rows, n] after each other: [rows, samples]."""
    import torch

    parts, values = [], 0
    for wave in waves:
        parts.append(wave)
        values += wave.numel()
        if values > MAX_VALUES:
            raise DataError("audio_too_long", f"more than {MAX_VALUES:,} values; read it in pieces by start and stop")
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, dim=1) if parts else torch.empty(rows, 0)
