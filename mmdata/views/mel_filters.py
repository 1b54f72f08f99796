"""Filters of the mel scale, as plain arrays: spectrograms for models and for people are made with the same ones."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmdata.errors import SpecError
from mmdata.views.mel import N_FFT, SAMPLE_RATE


@lru_cache(maxsize=8)
def mel_filters(n_mels: int, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT) -> npt.NDArray[np.float64]:
    """Triangular filters of unit area on Slaney's mel scale, from 0 to half the sample rate: [n_mels, n_fft // 2 + 1].

    Slaney's scale is linear below 1 kHz (3 mels per 200 Hz) and logarithmic above (27 mels for a factor of 6.4), from
    his Auditory Toolbox (1998); the same filters as `librosa.filters.mel`.
    """
    if n_mels < 1:
        raise SpecError(f"n_mels {n_mels} leaves no filter")
    nyquist = sample_rate / 2
    top = 15 + 27 * np.log(nyquist / 1000) / np.log(6.4) if nyquist > 1000 else 3 * nyquist / 200
    mels = np.linspace(0.0, top, n_mels + 2)
    edges = np.where(mels < 15, 200 * mels / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.linspace(0.0, nyquist, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
