"""The arithmetic of Whisper's log-mel spectrogram, block by block in cache. `mel.log_mel_spectrogram` is its door."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from mmdata.errors import DataError
from mmdata.views.mel import HOP_LENGTH, N_FFT, REFLECTED
from mmdata.views.mel_filters import mel_filters

FLOOR = 1e-10
"""Power below which everything is silence."""
SILENCE = -10.0
"""log10 of `FLOOR`, exact in float32."""
_BLOCK = 600
"""Frames whose windows and spectra (1 MB each) are worked on while they are in cache."""
_BANDS = 4
"""Filters of one band are one matrix, which covers only the bins that any of them needs."""


def log_mel(wave: torch.Tensor, *, length: int, n_mels: int, keep: int | None = None) -> torch.Tensor:
    """The spectrogram of `wave` float32 [<= length samples] with silence up to `length`: float32 [n_mels, frames], of
    which only the first `keep` where that is given.

    Frames of silence after the clip are not computed, for their value is known. Raises DataError `audio_too_short`
    where `length` leaves nothing to reflect.
    """
    if length <= REFLECTED:
        raise DataError("audio_too_short", f"{length} samples; a spectrogram needs more than {REFLECTED}")
    frames = length // HOP_LENGTH
    heard = min(frames, -(-(len(wave) + REFLECTED) // HOP_LENGTH))  # later windows see silence only
    kept = frames if keep is None else min(keep, frames)
    mel = torch.empty(n_mels, max(kept, heard))  # what is not kept may still hold the maximum
    power = mel[:, :heard]
    _mel_power(wave.contiguous(), length, power)
    power.clamp_(min=FLOOR).log10_()
    mel[:, heard:] = SILENCE
    lowest = float(power.max()) - 8.0
    return mel[:, :kept].contiguous().clamp_(min=lowest).add_(4.0).mul_(0.25)


def _mel_power(wave: torch.Tensor, length: int, out: torch.Tensor) -> None:
    """Mel-weighted power of the first windows of `wave`, into float32 [n_mels, frames].

    Squared real and imaginary parts stay interleaved and each filter has every weight twice, so that the matrix
    product adds them; complex absolute values are the slowest part of the usual way.
    """
    frames = out.shape[1]
    weighted = torch.empty(min(_BLOCK, frames), N_FFT)
    for start in range(0, frames, _BLOCK):
        stop = min(start + _BLOCK, frames)
        windows = _windows(wave, length, start, stop)
        spectrum = torch.fft.rfft(torch.mul(windows, _hann(), out=weighted[: stop - start]))
        squares = torch.view_as_real(spectrum).flatten(1).square_()
        for first, last, low, high, weights in _bands(out.shape[0]):
            torch.mm(weights, squares[:, low:high].t(), out=out[first:last, start:stop])


def _windows(wave: torch.Tensor, length: int, start: int, stop: int) -> torch.Tensor:
    """Windows start <= i < stop of `wave`, filled up to `length` samples and reflected at both ends: [n, 400].

    [a b c d ...  w x y z] -> [... d c b | a b c d ... w x y z | y x w ...]. Inside the wave nothing is copied.
    """
    begin, end = start * HOP_LENGTH - REFLECTED, (stop - 1) * HOP_LENGTH + REFLECTED
    shape, steps = (stop - start, N_FFT), (HOP_LENGTH, 1)
    if begin >= 0 and end <= len(wave):
        return wave[begin:end].as_strided(shape, steps)
    seen = torch.zeros(end - begin)
    inside = wave[max(begin, 0) : end]
    seen[max(-begin, 0) : max(-begin, 0) + len(inside)] = inside
    if begin < 0:
        left = wave[1 : 1 - begin].flip(0)
        seen[-begin - len(left) : -begin] = left
    if end > length:
        right = wave[2 * length - 1 - end : length - 1].flip(0)  # of the silence before it nothing is stored
        seen[len(seen) - len(right) :] = right
    return seen.as_strided(shape, steps)


@lru_cache(maxsize=1)
def _hann() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@lru_cache(maxsize=8)
def _bands(n_mels: int) -> tuple[tuple[int, int, int, int, torch.Tensor], ...]:
    """Filters first..last as a matrix over the interleaved columns low..high, for groups of neighbouring filters."""
    filters = mel_filters(n_mels).astype(np.float32)
    edges = [n_mels * band // _BANDS for band in range(_BANDS + 1)]
    bands = []
    for first, last in pairwise(edges):
        if first == last:
            continue
        used = np.flatnonzero(filters[first:last].any(axis=0))
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)  # a filter narrower than a bin is empty
        weights = torch.from_numpy(filters[first:last, low:high].repeat(2, axis=1))
        bands.append((first, last, 2 * low, 2 * high, weights))
    return tuple(bands)
