"""What steps do with sound: waveforms of media, levels of their frames, and media of other waveforms."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError
from mmdata.types import Media, Sample, Text

Wave = npt.NDArray[np.float32]
Written = Literal["flac", "wav"]
SILENCE = 1e-10
"""Mean square that counts as none: -100 dB."""


def sounds(sample: Sample, *, video: bool = False) -> Iterator[Media]:
    """The audio of a sample, and with `video` the videos that are known to have sound."""
    return (m for m in sample.media if m.kind == "audio" or (video and m.kind == "video" and m.channels))


def seconds(media: Media) -> float:
    """How long a medium is: the fact, or else what its file says. Raises DataError as readers of facts do."""
    if media.seconds is not None:
        return media.seconds
    found = facts(media).seconds
    if found is None:
        raise DataError("no_duration", "nothing says how long it is; put `probe` before")
    return found


def facts(media: Media) -> Media:
    """The facts of audio or video, read from its bytes."""
    assert media.data is not None, media
    if media.kind == "video":
        from mmdata.decode import video_facts

        return video_facts.read_facts(media.data)
    from mmdata.decode import audio

    return audio.read_facts(media.data)


def rate_of(media: Media) -> int:
    """Samples per second."""
    rate = media.sample_rate or facts(media).sample_rate
    assert rate, media
    return rate


def waveform(media: Media, *, sample_rate: int | None = None, mono: bool = True) -> Wave:
    """float32 [samples], or [channels, samples] without `mono`; at the file's own rate unless told otherwise."""
    from mmdata.decode import audio

    assert media.data is not None, media
    wave: Wave = audio.decode(media.data, sample_rate=sample_rate, mono=mono).numpy()
    return wave


def levels(wave: Wave, frame: int, hop: int) -> npt.NDArray[np.float64]:
    """Mean square of frames around every `hop`-th sample, silence beyond the ends: f64[samples // hop + 1]."""
    padded = np.pad(wave.astype(np.float64) ** 2, frame // 2)
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    starts = np.arange(len(wave) // hop + 1) * hop
    starts = starts[starts + frame < len(sums)]
    made: npt.NDArray[np.float64] = np.maximum((sums[starts + frame] - sums[starts]) / frame, 0.0)
    return made


def decibels(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """10 log10, of silence -100."""
    made: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, SILENCE))
    return made


def encoded(media: Media, wave: Wave, rate: int, format: Written = "flac") -> Media:
    """A medium of another waveform, float32 [channels, samples] or [samples], as 16-bit FLAC or WAV. Values beyond full
    range are cut."""
    import soundfile

    rows = np.atleast_2d(wave)
    out = io.BytesIO()
    integers = np.rint(rows.T.astype(np.float64).clip(-1, 32767 / 32768) * 32768).astype(np.int16)
    soundfile.write(out, integers, rate, format=format.upper(), subtype="PCM_16")
    return replace(
        media,
        data=out.getvalue(),
        format=format,
        sample_rate=rate,
        channels=rows.shape[0],
        samples=rows.shape[1],
        seconds=rows.shape[1] / rate,
    )


def replaced(sample: Sample, change: Callable[[Media], Media | tuple[Media, ...]]) -> Sample:
    """The sample with each of its audio parts changed, or replaced by several."""
    parts: list[Text | Media] = []
    for part in sample.parts:
        made = change(part) if isinstance(part, Media) and part.kind == "audio" else part
        parts += made if isinstance(made, tuple) else (made,)
    return replace(sample, parts=tuple(parts))
