"""Classical features of sound, frame by frame: loudness, zero crossings, shape of the spectrum, cepstrum, pitch.

Frame i is centred on sample `i * hop_length`, with silence around the clip, so every feature of a waveform [samples]
has `samples // hop_length + 1` frames and they line up. Defaults are those of speech at 16 kHz: a frame every 10 ms,
windows of 25 ms (pitch: 64 ms, for two periods of a low voice). Definitions and names are librosa's where it has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from mmdata.errors import SpecError
from mmdata.views.mel import HOP_LENGTH, N_FFT, SAMPLE_RATE
from mmdata.views.mel_filters import mel_filters

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Waveform = npt.NDArray[np.float32] | torch.Tensor

TINY = 1e-10
"""Amplitude below which a sample has no sign, and power below which everything is silence."""
_BLOCK = 256
"""Frames whose pitch is looked for at once: a long clip must not fill the memory."""


def frames(wave: Waveform, *, frame_length: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Overlapping windows of a mono waveform float32 [samples]: float32 [samples // hop_length + 1, frame_length].

    >>> frames(torch.arange(1.0, 6.0), frame_length=4, hop_length=2).tolist()
    [[0.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 0.0]]
    """
    sound = torch.as_tensor(wave, dtype=torch.float32)
    if sound.ndim != 1 or frame_length < 1 or hop_length < 1:
        raise SpecError(f"frames of {frame_length} every {hop_length} samples of a waveform {list(sound.shape)}")
    count = len(sound) // hop_length + 1
    half = frame_length // 2
    padded = torch.zeros((count - 1) * hop_length + max(frame_length, half + hop_length))
    padded[half : half + len(sound)] = sound
    return padded.as_strided((count, frame_length), (hop_length, 1))


def zero_crossing_rate(wave: Waveform, *, frame_length: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Changes of sign per sample of each frame, 0..1: float32 [frames]. Zero counts as positive."""
    negative = frames(wave, frame_length=frame_length, hop_length=hop_length) < -TINY
    changes = torch.logical_xor(negative[:, 1:], negative[:, :-1]).float()
    return changes.mean(dim=1) * ((frame_length - 1) / frame_length)


def short_time_energy(wave: Waveform, *, frame_length: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Sum of squares of each frame: float32 [frames]."""
    return frames(wave, frame_length=frame_length, hop_length=hop_length).square().sum(dim=1)


def energy_contour(wave: Waveform, *, frame_length: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Mean power of each frame in decibels of full scale, not below -100: float32 [frames]."""
    energy = short_time_energy(wave, frame_length=frame_length, hop_length=hop_length)
    return 10 * (energy / frame_length).clamp(min=TINY).log10()


def magnitudes(wave: Waveform, *, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> torch.Tensor:
    """Absolute spectrum of Hann windows: float32 [frames, n_fft // 2 + 1]."""
    windows = frames(wave, frame_length=n_fft, hop_length=hop_length)
    spectrum: torch.Tensor = torch.fft.rfft(windows * torch.hann_window(n_fft)).abs()
    return spectrum


def spectral_centroid(
    wave: Waveform, *, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH
) -> torch.Tensor:
    """Mean frequency in Hz, weighted by magnitude; 0 for silence: float32 [frames]."""
    size = magnitudes(wave, n_fft=n_fft, hop_length=hop_length)
    total = size.sum(dim=1)
    return torch.where(total > 0, size @ _frequencies(sample_rate, n_fft) / total, torch.zeros(()))


def spectral_rolloff(
    wave: Waveform,
    *,
    share: float = 0.85,
    sample_rate: int = SAMPLE_RATE,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
) -> torch.Tensor:
    """The frequency in Hz below which `share` of the magnitude lies; 0 for silence: float32 [frames]."""
    if not 0 < share < 1:
        raise SpecError(f"share {share} is not between 0 and 1")
    below = magnitudes(wave, n_fft=n_fft, hop_length=hop_length).cumsum(dim=1)
    first = (below < share * below[:, -1:]).sum(dim=1)
    return _frequencies(sample_rate, n_fft)[first]


def mfcc(
    wave: Waveform,
    *,
    n_mfcc: int = 13,
    n_mels: int = 128,
    sample_rate: int = SAMPLE_RATE,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
) -> torch.Tensor:
    """Mel-frequency cepstral coefficients: float32 [n_mfcc, frames].

    The orthonormal cosine transform (DCT-II) of mel power in decibels, limited to 80 below the clip's maximum.
    """
    if not 0 < n_mfcc <= n_mels:
        raise SpecError(f"n_mfcc {n_mfcc} is not between 1 and n_mels {n_mels}")
    decibels = _mel_decibels(wave, n_mels, sample_rate, n_fft, hop_length)
    return _cosines(n_mfcc, n_mels) @ decibels.clamp(min=float(decibels.max()) - 80.0)


def multi_scale(
    wave: Waveform,
    *,
    windows: Sequence[int] = (400, 800, 1600),
    n_mels: int = 64,
    sample_rate: int = SAMPLE_RATE,
    hop_length: int = HOP_LENGTH,
) -> torch.Tensor:
    """Mel power in decibels seen through windows of several lengths: float32 [windows, n_mels, frames].

    Short windows tell when, long ones which frequency; all are centred on the same samples. `windows` in samples.
    """
    return torch.stack([_mel_decibels(wave, n_mels, sample_rate, length, hop_length) for length in windows])


def f0_contour(
    wave: Waveform,
    *,
    lowest: float = 65.0,
    highest: float = 500.0,
    threshold: float = 0.1,
    sample_rate: int = SAMPLE_RATE,
    frame_length: int = 1024,
    hop_length: int = HOP_LENGTH,
) -> torch.Tensor:
    """Fundamental frequency in Hz between `lowest` and `highest`, 0 where nothing is voiced: float32 [frames].

    YIN (de Cheveigne and Kawahara 2002), steps 1 to 5: the squared difference of a window and itself shifted by every
    period, divided by its mean over shorter shifts; of the shifts where this dips below `threshold` the first, refined
    by a parabola. The window has `frame_length` less the longest period.
    """
    shortest, longest = int(sample_rate / highest), math.ceil(sample_rate / lowest)
    width = frame_length - longest
    if not (1 < shortest < longest and width > longest):
        raise SpecError(f"{lowest} to {highest} Hz needs frames of more than {2 * longest} samples, not {frame_length}")
    windows = frames(wave, frame_length=frame_length, hop_length=hop_length)
    blocks = [
        _f0(windows[at : at + _BLOCK].double(), width, shortest, longest, threshold)
        for at in range(0, len(windows), _BLOCK)
    ]
    period = torch.cat(blocks)
    return torch.where(period > 0, sample_rate / period, torch.zeros(())).float()


def _f0(windows: torch.Tensor, width: int, shortest: int, longest: int, threshold: float) -> torch.Tensor:
    """Periods in samples, 0 where nothing is voiced: float64 [frames]."""
    difference = _normalised_difference(windows, width, longest)
    dips = difference[:, shortest : longest + 1]
    falling = torch.ones_like(dips, dtype=torch.bool)
    falling[:, 1:] = dips[:, 1:] < dips[:, :-1]
    rising = torch.ones_like(falling)
    rising[:, :-1] = dips[:, :-1] <= dips[:, 1:]
    found = falling & rising & (dips < threshold)
    period = found.to(torch.uint8).argmax(dim=1, keepdim=True) + shortest  # the first of the maxima
    refined = period + _parabola(difference, period.clamp(max=longest - 1))
    return torch.where(found.any(dim=1), refined[:, 0], torch.zeros(()))


def _normalised_difference(windows: torch.Tensor, width: int, longest: int) -> torch.Tensor:
    """Equation 8 of YIN for shifts 0..longest: [frames, longest + 1]. Products come from a Fourier transform."""
    length = windows.shape[1]
    size = 1 << (length - 1).bit_length()  # no wrap: the shifted window ends within the frame
    products = torch.fft.irfft(torch.fft.rfft(windows, size) * torch.fft.rfft(windows[:, :width], size).conj(), size)[
        :, : longest + 1
    ]
    squares = torch.nn.functional.pad(windows.square().cumsum(dim=1), (1, 0))
    energies = squares[:, width : width + longest + 1] - squares[:, : longest + 1]
    difference = (energies[:, :1] + energies - 2 * products).clamp(min=0.0)
    difference[:, 0] = 0.0
    mean = difference.cumsum(dim=1)[:, 1:] / torch.arange(1, longest + 1)
    # In silence everything is 0 and nothing is voiced; the bound is far below any sound of 16 bits.
    normalised = torch.where(mean > width * TINY, difference[:, 1:] / mean, torch.ones((), dtype=torch.float64))
    return torch.nn.functional.pad(normalised, (1, 0), value=1.0)


def _parabola(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Where the parabola through the values beside `at` [frames, 1] has its lowest point, from -0.5 to 0.5 of it."""
    before, middle, after = (values.gather(1, at + step) for step in (-1, 0, 1))
    curve = before - 2 * middle + after
    return torch.where(curve > 0, (before - after) / (2 * curve), torch.zeros(())).clamp(-0.5, 0.5)


def _mel_decibels(wave: Waveform, n_mels: int, sample_rate: int, n_fft: int, hop_length: int) -> torch.Tensor:
    power = magnitudes(wave, n_fft=n_fft, hop_length=hop_length).square()
    filters = torch.from_numpy(mel_filters(n_mels, sample_rate, n_fft)).float()
    return 10 * (filters @ power.t()).clamp(min=TINY).log10()


def _frequencies(sample_rate: int, n_fft: int) -> torch.Tensor:
    return torch.arange(n_fft // 2 + 1) * (sample_rate / n_fft)


@lru_cache(maxsize=8)
def _cosines(rows: int, columns: int) -> torch.Tensor:
    """The first rows of the orthonormal DCT-II."""
    angles = math.pi / columns * torch.arange(rows, dtype=torch.float64)[:, None] * (torch.arange(columns) + 0.5)
    matrix = torch.cos(angles) * math.sqrt(2 / columns)
    matrix[0] /= math.sqrt(2)
    return matrix.float()
