"""What a sound looks like: its waveform as a line, its log-mel spectrogram as a picture, and a clip of it to play.

As with pictures, hostile bytes never reach the page: what is heard and seen was decoded and encoded again. All is
numpy, so that a build does not wait for torch; the spectrogram is that of `mmdata.views.mel`, which a test compares.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError
from mmdata.report_page.pictures import Picture, encoded
from mmdata.views.mel import HOP_LENGTH, N_FFT, REFLECTED, SAMPLE_RATE

SHOWN_SECONDS = 30.0
"""Of a longer sound this much is decoded."""
CLIP_SECONDS = 6.0
"""What can be played of it."""
COLUMNS, BANDS = 320, 80
WIDTH, HEIGHT = 320, 48
"""Of the waveform's viewBox."""
_HEAT = np.array(
    [(7, 6, 24), (49, 18, 86), (110, 29, 102), (169, 47, 90), (219, 80, 59), (247, 134, 24), (252, 196, 62),
     (252, 253, 191)], np.float64,
)  # fmt: skip
"""From silence to the loudest: dark to light, and light in grey too."""
Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """`outline` is an SVG path in a box of `WIDTH` by `HEIGHT`; `clip` a data URI of MP3, or empty where there is no
    room. `seconds` are shown. Without a picture, `why` says so."""

    outline: str = ""
    spectrogram: Picture = field(default_factory=Picture)
    clip: str = ""
    seconds: float = 0.0
    peak: float = 0.0
    why: str = ""


def sound(data: bytes, *, clip: bool = True) -> Sound:
    """The first `SHOWN_SECONDS` of the bytes of audio, or of a video with sound."""
    from mmdata.decode.audio import first_samples

    try:
        wave, rate = first_samples(data, SHOWN_SECONDS)
        heard = resampled(wave, rate)
        if len(heard) <= REFLECTED:
            return Sound(why="no preview: too short to be heard")
        return Sound(
            outline=outline(wave),
            spectrogram=_picture(log_mel(heard, BANDS)),
            clip=_mp3(heard[: round(CLIP_SECONDS * SAMPLE_RATE)]) if clip else "",
            seconds=len(wave) / rate,
            peak=float(np.abs(wave).max()),
        )
    except DataError as error:
        return Sound(why=f"no preview: {error.reason}")
    except Exception as error:  # a decoder may raise anything on hostile bytes; a missing preview is no failure
        return Sound(why=f"no preview: {type(error).__name__}")


def resampled(wave: Wave, rate: int) -> Wave:
    """At 16 kHz, by cutting its spectrum off or continuing it with nothing."""
    count = round(len(wave) * SAMPLE_RATE / rate)
    if rate == SAMPLE_RATE or not count:
        return wave
    spectrum = np.fft.rfft(wave.astype(np.float64))
    made: Wave = (np.fft.irfft(spectrum[: count // 2 + 1], count) * (count / len(wave))).astype(np.float32)
    return made


def log_mel(wave: Wave, n_mels: int) -> Wave:
    """As `mmdata.views.mel.log_mel_spectrogram` gives it, of a waveform at 16 kHz: float32 [n_mels, samples // 160]."""
    from mmdata.views.mel_filters import mel_filters

    reflected = np.pad(wave, REFLECTED, mode="reflect")
    frames = len(wave) // HOP_LENGTH
    windows = np.lib.stride_tricks.sliding_window_view(reflected, N_FFT)[::HOP_LENGTH][:frames]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(windows * hann)) ** 2
    mel = np.log10(np.maximum(power @ mel_filters(n_mels).T, 1e-10)).T
    made: Wave = ((np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return made


def outline(wave: Wave, columns: int = 160) -> str:
    """The lowest and highest value of each of `columns` stretches, as one closed SVG path around the middle line.

    >>> outline(np.array([1, -1, 0.5, -0.5], np.float32), columns=2)
    'M0 2L320 13L320 35L0 46Z'
    """
    columns = min(columns, len(wave))
    edges = np.linspace(0, len(wave), columns + 1).astype(np.int64)[:-1]
    high, low = np.maximum.reduceat(wave, edges).clip(0, 1), np.minimum.reduceat(wave, edges).clip(-1, 0)
    across = np.linspace(0, WIDTH, columns)
    middle, tall = HEIGHT / 2, HEIGHT / 2 - 2
    ups = [(x, middle - tall * value) for x, value in zip(across, high, strict=True)]
    downs = [(x, middle - tall * value) for x, value in zip(across, low, strict=True)]
    return "M" + "L".join(f"{x:.0f} {y:.4g}" for x, y in [*ups, *downs[::-1]]) + "Z"


def _picture(mel: Wave) -> Picture:
    """Low tones below, louder is lighter, at most `COLUMNS` wide."""
    from PIL import Image

    edges = np.unique(np.linspace(0, mel.shape[1], min(COLUMNS, mel.shape[1]) + 1).astype(np.int64)[:-1])
    pooled = np.maximum.reduceat(mel, edges, axis=1)[::-1]
    span = max(float(pooled.max() - pooled.min()), 1e-9)
    heat = (pooled - pooled.min()) / span * (len(_HEAT) - 1)
    below = np.minimum(heat.astype(np.int64), len(_HEAT) - 2)
    share = (heat - below)[..., None]
    colours = _HEAT[below] * (1 - share) + _HEAT[below + 1] * share
    return encoded(Image.fromarray(colours.round().astype(np.uint8)), quality=72)


def _mp3(wave: Wave) -> str:
    """Mono at 16 kHz as a data URI, about 3 kB a second; the same waveform gives the same bytes."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave.clip(-1, 1), SAMPLE_RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.9)
    return "data:audio/mpeg;base64," + base64.b64encode(out.getvalue()).decode()
