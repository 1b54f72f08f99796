"""Views of encoders that take spectrograms of one size: the Audio Spectrogram Transformer and CLAP (HTSAT)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmdata.decode.resample import resampled_length
from mmdata.errors import DataError, SpecError
from mmdata.ops import Spectrogram
from mmdata.types import Media, MediaPlan

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

Long = Literal["chunk", "trim", "refuse"]
"""What becomes of a sound that one spectrogram does not hold: several of them, the first of them, or it is refused."""
Fill = Literal["repeatpad", "repeat", "pad"]
Scale = Literal["htk", "slaney", "kaldi"]
WINDOW, SHIFT = 25, 10
"""Milliseconds of Kaldi's windows, and from one to the next."""
PREEMPHASIS = 0.97
EPSILON = float(np.finfo(np.float32).eps)
"""Least energy of a filter, before the logarithm (Kaldi)."""
LEAST = 1e-10
"""Least power of a filter, before the decibels (librosa)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AstSpectrogram:
    """Audio becomes spectrograms float32 [N, frames, bins] as `ASTFeatureExtractor` makes them: Kaldi's filter banks
    (25 ms every 10 ms, Hanning, mean taken off, pre-emphasis), 0 after the sound, then (x - mean) / (2 std).

    The encoder's patches are `patch` wide and `stride` frames apart, so a spectrogram has `positions`, 1000 / (10 *
    stride) a second; every `pool` of those that begin in the sound make a token, those in the silence after it none.
    A longer sound is cut into several spectrograms (`long: chunk`), each beginning where the positions of the last one
    end, so that they go on at their rate; or its first one is all that is taken (`trim`, as the extractor does); or it
    is refused (`audio_too_long`). A sound without one window is refused (`audio_too_short`).
    """

    bins: int = 128
    frames: int = 1024
    patch: int = 16
    stride: int = 10
    sample_rate: int = 16_000
    mean: float = -4.2677393
    std: float = 4.5689974
    normalise: bool = True
    pool: int = 1
    long: Long = "chunk"

    def __post_init__(self) -> None:
        _check(self.long, self.pool)
        if self.frames < self.patch or self.stride < 1:
            raise SpecError(f"view ast: patches of {self.patch} every {self.stride} do not fit {self.frames} frames")
        if self.sample_rate % 1000:
            raise SpecError(f"view ast: sample_rate {self.sample_rate} is no whole number of kHz")

    @property
    def positions(self) -> int:
        """Of one spectrogram, in time.

        >>> AstSpectrogram().positions
        101
        """
        return (self.frames - self.patch) // self.stride + 1

    def plan(self, facts: Media) -> MediaPlan:
        """What becomes of an audio of `facts.samples` at `facts.sample_rate`.

        >>> plan = AstSpectrogram().plan(Media(kind="audio", samples=20 * 44_100, sample_rate=44_100))
        >>> plan.tokens, plan.shape, plan.ops[1]  # 1,998 frames: 1,024 of them, and those from the 1,010th on
        (200, (2, 1024, 128), Spectrogram(samples=320000, start=161600, stop=320000, positions=99))
        """
        samples = _samples(facts, self.sample_rate)
        window, shift = self._window
        if samples < window:
            raise DataError("audio_too_short", f"{samples} samples; a spectrogram needs {window} of them")
        heard, step = 1 + (samples - window) // shift, self.positions * self.stride
        overlap = self.frames - step
        count = _count(max(1, -(-(heard - overlap) // step)), self.long, samples / self.sample_rate)
        ops = []
        for at in range(count):
            frames = min(heard - at * step, self.frames)
            start = at * step * shift
            stop = samples if at * step + frames == heard else start + (frames - 1) * shift + window
            ops.append(Spectrogram(samples, start, stop, min(self.positions, -(-frames // self.stride))))
        return _plan(ops, self.pool, (self.frames, self.bins))

    def realize(self, wave: npt.NDArray[np.float32] | torch.Tensor, plan: MediaPlan) -> torch.Tensor:
        """A mono waveform float32 [samples] at `sample_rate` to float32 of `plan.shape`. Raises DataError
        `facts_mismatch` where it does not have the planned number of samples."""
        import torch

        made = torch.zeros(plan.shape)
        for row, (piece, _) in zip(made, _pieces(wave, plan), strict=True):
            found = self._bank(piece)[: self.frames]
            row[: len(found)] = found
        return (made - self.mean) / (2 * self.std) if self.normalise else made

    @property
    def _window(self) -> tuple[int, int]:
        return WINDOW * self.sample_rate // 1000, SHIFT * self.sample_rate // 1000

    def _bank(self, wave: torch.Tensor) -> torch.Tensor:
        """Kaldi's log-mel of [samples]: float32 [frames, bins]. Each window has its mean taken off first; the first of
        its samples is its own predecessor."""
        import torch

        window, shift = self._window
        size = 1 << (window - 1).bit_length()
        rows = wave.unfold(0, window, shift)
        rows = rows - rows.mean(1, keepdim=True)
        rows = rows - PREEMPHASIS * torch.cat([rows[:, :1], rows[:, :-1]], dim=1)
        rows = rows * torch.hann_window(window, periodic=False)
        power = torch.fft.rfft(rows, n=size).abs().square()
        bank = torch.from_numpy(filters("kaldi", self.bins, size, self.sample_rate, 20.0, self.sample_rate / 2))
        logged: torch.Tensor = (power @ bank.T).clamp_(min=EPSILON).log_()
        return logged

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "ast", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClapSpectrogram:
    """Audio becomes spectrograms float32 [N, frames, bins] in decibels as `ClapFeatureExtractor` makes them of sounds
    of `clip` samples at most: a shorter one is repeated as often as it fits and then filled up with silence (`fill`:
    repeatpad), or repeated and cut (`repeat`), or filled up (`pad`). Filters are on Slaney's scale with unit area, or
    on HTK's (`scale`), which the extractor takes with `truncation: fusion`.

    The encoder makes `positions` of a clip, evenly; every `pool` of those in which the sound is heard for the first
    time make a token. A longer sound is cut into clips one after the other (`long: chunk`), or its first clip is all
    that is taken (`trim`), or it is refused (`audio_too_long`); the extractor draws a piece, or mixes four, by chance.
    """

    bins: int = 64
    clip: int = 480_000
    positions: int = 32
    hop: int = 480
    n_fft: int = 1024
    sample_rate: int = 48_000
    low: float = 0.0
    high: float = 14_000.0
    scale: Scale = "slaney"
    fill: Fill = "repeatpad"
    pool: int = 1
    long: Long = "chunk"

    def __post_init__(self) -> None:
        _check(self.long, self.pool)
        if self.scale not in ("slaney", "htk") or self.fill not in ("repeatpad", "repeat", "pad"):
            raise SpecError(f"view clap: scale {self.scale}, fill {self.fill}; slaney or htk, repeatpad, repeat or pad")
        if self.clip <= self.n_fft // 2 or self.hop < 1 or self.positions < 1:
            raise SpecError(f"view clap: clips of {self.clip} samples are too short for windows of {self.n_fft}")

    @property
    def frames(self) -> int:
        """Of one spectrogram.

        >>> ClapSpectrogram().frames
        1001
        """
        return self.clip // self.hop + 1

    def plan(self, facts: Media) -> MediaPlan:
        """What becomes of an audio of `facts.samples` at `facts.sample_rate`.

        >>> plan = ClapSpectrogram().plan(Media(kind="audio", samples=12 * 16_000, sample_rate=16_000))
        >>> plan.tokens, plan.shape, plan.ops[1]
        (39, (2, 1001, 64), Spectrogram(samples=576000, start=480000, stop=576000, positions=7))
        """
        samples = _samples(facts, self.sample_rate)
        count = _count(-(-samples // self.clip), self.long, samples / self.sample_rate)
        ops = []
        for start in range(0, count * self.clip, self.clip):
            stop = min(start + self.clip, samples)
            ops.append(Spectrogram(samples, start, stop, -(-(stop - start) * self.positions // self.clip)))
        return _plan(ops, self.pool, (self.frames, self.bins))

    def realize(self, wave: npt.NDArray[np.float32] | torch.Tensor, plan: MediaPlan) -> torch.Tensor:
        """As `AstSpectrogram.realize`."""
        import torch

        bank = torch.from_numpy(filters(self.scale, self.bins, self.n_fft, self.sample_rate, self.low, self.high))
        window = torch.hann_window(self.n_fft, dtype=torch.float64)  # in float32 quiet bands beside loud ones are noise
        made = []
        for piece, _ in _pieces(wave, plan):
            sound = self._filled(piece).double()
            spectrum = torch.stft(sound, self.n_fft, self.hop, window=window, pad_mode="reflect", return_complex=True)
            power = bank @ spectrum.abs().square().float()
            made.append(10 * power.clamp_(min=LEAST).log10_().T)
        return torch.stack(made)

    def _filled(self, wave: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import pad

        times = {"repeat": self.clip // len(wave) + 1, "repeatpad": self.clip // len(wave), "pad": 1}[self.fill]
        sound = wave.repeat(times)[: self.clip]
        return pad(sound, (0, self.clip - len(sound)))

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "clap", **asdict(self)}


@lru_cache(maxsize=8)
def filters(scale: Scale, bins: int, n_fft: int, sample_rate: int, low: float, high: float) -> npt.NDArray[np.float32]:
    """Triangular filters of a power spectrum: float32 [bins, n_fft // 2 + 1], from `low` to `high` Hz.

    htk: 2595 log10(1 + f / 700), triangles over Hz, as torchaudio's; slaney: linear below 1 kHz, triangles over Hz of
    unit area, as librosa's; kaldi: 1127 ln(1 + f / 700), triangles over mels, the last bin left out.

    >>> filters("htk", 64, 1024, 48_000, 0.0, 14_000.0).shape
    (64, 513)
    """
    hertz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    if scale == "slaney":
        step, top = np.log(6.4) / 27, np.array([low, high])
        mels = np.where(top < 1000, 3 * top / 200, 15 + np.log(np.maximum(top, 1e-9) / 1000) / step)
        points = np.linspace(mels[0], mels[1], bins + 2)
        edges = np.where(points < 15, 200 * points / 3, 1000 * np.exp((points - 15) * step))
        places = hertz
    else:
        points = np.linspace(np.log1p(low / 700), np.log1p(high / 700), bins + 2)
        edges, places = (points, np.log1p(hertz / 700)) if scale == "kaldi" else (700 * np.expm1(points), hertz)
    rising = (places - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - places) / np.diff(edges)[1:, None]
    found = np.maximum(0.0, np.minimum(rising, falling))
    if scale == "slaney":
        found *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    if scale == "kaldi":
        found[:, -1] = 0.0
    return found.astype(np.float32)


def _check(long: str, pool: int) -> None:
    if long not in ("chunk", "trim", "refuse") or pool < 1:
        raise SpecError(f"view of spectrograms: long {long}, pool {pool}; chunk, trim or refuse, and 1 at least")


def _samples(facts: Media, rate: int) -> int:
    if facts.samples is None or not facts.sample_rate:
        raise DataError("no_facts", "samples and sample_rate of the audio are not known; build it with a `probe` step")
    samples = resampled_length(facts.samples, facts.sample_rate, rate)
    if samples < 1:
        raise DataError("empty_audio", "no samples")
    return samples


def _count(pieces: int, long: Long, seconds: float) -> int:
    if pieces > 1 and long == "refuse":
        raise DataError("audio_too_long", f"{seconds:.2f} s do not fit one spectrogram (views.audio.long: refuse)")
    return 1 if long == "trim" else pieces


def _plan(ops: list[Spectrogram], pool: int, shape: tuple[int, int]) -> MediaPlan:
    tokens = sum(op.positions for op in ops) // pool
    return MediaPlan(kind="audio", tokens=tokens, shape=(len(ops), *shape), ops=tuple(ops))


def _pieces(wave: npt.NDArray[np.float32] | torch.Tensor, plan: MediaPlan) -> list[tuple[torch.Tensor, Spectrogram]]:
    import torch

    sound = torch.as_tensor(wave, dtype=torch.float32)
    ops = [op for op in plan.ops if isinstance(op, Spectrogram)]
    if sound.ndim != 1 or len(sound) != ops[0].samples:
        raise DataError("facts_mismatch", f"a waveform {list(sound.shape)}, planned for {ops[0].samples:,} samples")
    return [(sound[op.start : op.stop], op) for op in ops]
