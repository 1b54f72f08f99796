"""Whisper's log-mel spectrogram, its frame counts, and the view that makes it of a waveform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmdata.decode.resample import resampled_length
from mmdata.errors import DataError, SpecError
from mmdata.types import LogMel, Media, MediaPlan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

SAMPLE_RATE = 16_000
N_FFT = 400
"""Samples in a window: 25 ms."""
HOP_LENGTH = 160
"""Samples from one frame to the next: 10 ms, 100 frames a second."""
REFLECTED = N_FFT // 2
"""Samples by which a clip is continued at either end, so that the first window is centred on the first sample."""
CHUNK_SAMPLES = 30 * SAMPLE_RATE

Tokens = Literal["whisper", "qwen2_audio", "qwen2_5_omni", "voxtral", "voxtral_grouped", "qwen3_omni"]


def log_mel_spectrogram(
    audio: npt.NDArray[np.float32] | torch.Tensor,
    n_mels: int = 80,
    padding: int | Literal["max_length"] = 0,
    *,
    max_length: int = CHUNK_SAMPLES,
) -> torch.Tensor:
    """Log-mel spectrogram as Whisper was trained on: float32 [n_mels, samples // 160].

    `audio` is mono at 16 kHz, float32 [samples] in -1..1. As in openai-whisper, `padding` samples of silence are put
    after it; with `"max_length"` it is cut or filled to `max_length` samples instead, as Hugging Face's
    `WhisperFeatureExtractor` does by default. Of [batch, samples] every clip is taken alone: [batch, n_mels, frames]
    whose numbers do not depend on the other clips.

    Power of the short-time Fourier transform (periodic Hann window of 400, hop 160, centred, reflected at both ends,
    last frame dropped), Slaney mel filters of unit area over 0..8 kHz, log10, limited to 8 below the greatest value
    of the clip, `(x + 4) / 4`. Within 2e-7 of both references. Frames of the silence that fills a clip up are not
    computed, for their value is known.

    Raises DataError `audio_too_short` where 200 samples or less are left to reflect, as the references fail too.

    >>> import numpy as np
    >>> log_mel_spectrogram(np.zeros(16_000, np.float32)).shape
    torch.Size([80, 100])
    >>> log_mel_spectrogram(np.zeros(1, np.float32), 128, "max_length").shape
    torch.Size([128, 3000])
    """
    import torch

    from mmdata.views.log_mel import log_mel

    wave = torch.as_tensor(audio, dtype=torch.float32)
    if wave.ndim == 2:
        return torch.stack([log_mel_spectrogram(clip, n_mels, padding, max_length=max_length) for clip in wave])
    if wave.ndim != 1:
        raise ValueError(f"a mono waveform has shape [samples] or [batch, samples], not {list(wave.shape)}")
    length = max_length if padding == "max_length" else len(wave) + padding
    return log_mel(wave[:length], length=length, n_mels=n_mels)


def num_frames(samples: int, *, padded: int | None = None) -> int:
    """Frames of a clip of `samples` at 16 kHz that hold sound.

    Unpadded, these are all it has: `samples // 160`. Cut or filled to `padded` samples, a frame that is begun counts.
    Hugging Face's mask follows one rule or the other by whether the clip happens to be the longest of its batch; here
    it is the caller's choice and the batch does not matter.

    >>> num_frames(16_001), num_frames(16_001, padded=480_000), num_frames(10**6, padded=480_000)
    (100, 101, 3000)
    """
    return samples // HOP_LENGTH if padded is None else -(-min(samples, padded) // HOP_LENGTH)


def _halved(frames: int) -> int:
    """Length after a convolution of stride 2 that keeps the first position."""
    return (frames - 1) // 2 + 1


_RULES: dict[str, Callable[[int], int]] = {
    "whisper": _halved,
    "qwen2_audio": lambda n: (_halved(n) - 2) // 2 + 1,
    "qwen2_5_omni": lambda n: (_halved(n) - 2) // 2 + 1,
    "voxtral": lambda n: (_halved(n) - 2) // 2 + 1,
    "voxtral_grouped": lambda n: _halved(n) // 4,
    "qwen3_omni": lambda n: n // 100 * 13 + _halved(_halved(_halved(n % 100))),
}
_UNMASKED = {"whisper", "voxtral", "voxtral_grouped"}
"""Encoders without a mask: every frame of a padded clip is encoded, sound or not."""


def num_tokens(frames: int, family: Tokens = "whisper") -> int:
    """Feature vectors that an encoder makes of `frames` frames of log-mel.

    whisper 50 a second; qwen2_audio, qwen2_5_omni and voxtral 25; qwen3_omni 13; voxtral_grouped 12.5.
    (transformers: `_get_feat_extract_output_lengths` of each model. Voxtral's says 25 a second, but its projector then
    joins four of Whisper's vectors into one: 375 for 30 s, which is the number of its placeholders, is
    `voxtral_grouped`.)

    >>> [num_tokens(3000, family) for family in ("whisper", "qwen2_audio", "qwen3_omni", "voxtral_grouped")]
    [1500, 750, 390, 375]
    """
    if family not in _RULES:
        raise SpecError(f"tokens {family!r} is not one of {', '.join(_RULES)}")
    return _RULES[family](frames)


def chunks(samples: int, *, size: int, overlap: int = 0) -> tuple[tuple[int, int], ...]:
    """Cut `samples` into pieces (start, stop) of `size`, each beginning `overlap` before the last one ended.

    The last piece ends with the clip and may be shorter; a piece that would lie inside the one before is left out.

    >>> chunks(1000, size=400, overlap=100), chunks(400, size=400), chunks(0, size=400)
    (((0, 400), (300, 700), (600, 1000)), ((0, 400),), ((0, 0),))
    """
    if not 0 <= overlap < size:
        raise SpecError(f"an overlap of {overlap} samples does not fit chunks of {size}")
    step = size - overlap
    count = max(1, -(-(samples - overlap) // step))
    return tuple((at * step, min(at * step + size, samples)) for at in range(count))


def _prosody(wave: torch.Tensor, frames: int) -> torch.Tensor:
    """Pitch and loudness of as many frames, float32 [2, frames]; they have one more than a spectrogram."""
    import torch

    from mmdata.views.audio_features import energy_contour, f0_contour

    rows = torch.stack([f0_contour(wave), energy_contour(wave)])[:, :frames]
    silence = torch.tensor([[0.0], [-100.0]]).expand(2, frames - rows.shape[1])
    return torch.cat([rows, silence], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mel:
    """Audio becomes log-mel spectrograms of `n_mels` bins, and tokens by the rule of an encoder (`num_tokens`).

    `padded` is the length in samples at 16 kHz to which a clip is cut or filled, or None for what it has. With `chunk`
    (samples) a long clip is cut into pieces with `overlap`, each a spectrogram of its own: [chunks, n_mels, frames].
    `trim` keeps of a padded clip only the frames that hold sound, for encoders with a mask: their numbers are those
    of the padded clip. Encoders without one (whisper, voxtral) get a token for silence, too.

    With `pool`, that many of Whisper's positions (50 a second) of what holds sound make a token, in place of the rule.
    `prosody` puts two rows under the bins: the pitch of each frame in Hz (`audio_features.f0_contour`, 0 where there is
    none) and its loudness (`energy_contour`, dB of full scale); silence that fills up has 0 and -100.

    An audio without samples is refused (`empty_audio`); so is an unpadded one of 200 or less (`audio_too_short`),
    which the references fail on as well. Short clips may make no token: qwen2_audio has none for up to 2 frames.
    """

    n_mels: int = 80
    padded: int | None = CHUNK_SAMPLES
    tokens: Tokens = "whisper"
    chunk: int | None = None
    overlap: int = 0
    trim: bool = False
    pool: int | None = None
    prosody: bool = False

    def __post_init__(self) -> None:
        if self.pool is not None and self.pool < 1:
            raise SpecError(f"view mel: pool {self.pool}; so many positions make a token, one at least")
        if self.prosody and self.chunk:
            raise SpecError("view mel: prosody is for clips in one piece, without chunk")
        num_tokens(1, self.tokens)
        if self.n_mels < 1:
            raise SpecError(f"view mel: n_mels {self.n_mels} leaves no filter")
        if self.padded is not None and self.padded <= REFLECTED:
            raise SpecError(f"view mel: padded {self.padded} must be more than {REFLECTED} samples")
        if self.trim and (self.padded is None or self.tokens in _UNMASKED or self.chunk):
            raise SpecError("view mel: trim is for padded clips in one piece and an encoder with a mask")
        if self.chunk is None:
            if self.overlap:
                raise SpecError("view mel: overlap needs chunk")
            return
        chunks(0, size=self.chunk, overlap=self.overlap)
        if self.padded is None or self.padded < self.chunk:
            raise SpecError(f"view mel: chunks of {self.chunk} samples need padded of as many, to be stacked")

    def plan(self, facts: Media) -> MediaPlan:
        """What becomes of an audio, or of a video's sound, of `facts.samples` at `facts.sample_rate`.

        >>> plan = Mel(tokens="qwen2_audio").plan(Media(kind="audio", samples=44_100, sample_rate=44_100))
        >>> plan.tokens, plan.shape, plan.ops
        (25, (80, 3000), (LogMel(start=0, stop=16000, n_mels=80, padded=480000, frames=None),))
        """
        if facts.samples is None or not facts.sample_rate:
            raise DataError(
                "no_facts", "samples and sample_rate of the audio are not known; build it with a `probe` step"
            )
        samples = resampled_length(facts.samples, facts.sample_rate, SAMPLE_RATE)
        if samples < 1:
            raise DataError("empty_audio", "no samples")
        if self.padded is None and samples <= REFLECTED:
            raise DataError("audio_too_short", f"{samples} samples; a spectrogram needs more than {REFLECTED}")
        pieces = chunks(samples, size=self.chunk, overlap=self.overlap) if self.chunk else ((0, samples),)
        heard = [num_frames(stop - start, padded=self.padded) for start, stop in pieces]
        frames = heard[0] if self.padded is None or self.trim else self.padded // HOP_LENGTH
        counted = [frames] * len(heard) if self.tokens in _UNMASKED and self.pool is None else heard
        keep = frames if self.trim else None
        return MediaPlan(
            kind="audio",
            tokens=sum(num_tokens(n, self.tokens) if self.pool is None else _halved(n) // self.pool for n in counted),
            shape=(len(pieces), self.n_mels, frames) if self.chunk else (self.n_mels + 2 * self.prosody, frames),
            ops=tuple(LogMel(start, stop, self.n_mels, self.padded, keep) for start, stop in pieces),
        )

    def realize(self, wave: npt.NDArray[np.float32] | torch.Tensor, plan: MediaPlan) -> torch.Tensor:
        """A mono waveform float32 [samples] at 16 kHz to float32 of `plan.shape`.

        Raises DataError `facts_mismatch` where it does not have the planned number of samples.
        """
        import torch

        from mmdata.views.log_mel import log_mel

        sound = torch.as_tensor(wave, dtype=torch.float32)
        ops = [op for op in plan.ops if isinstance(op, LogMel)]
        if sound.ndim != 1 or len(sound) != ops[-1].stop:
            raise DataError("facts_mismatch", f"a waveform {list(sound.shape)}, planned for {ops[-1].stop:,} samples")
        mels = []
        for op in ops:
            length = op.stop - op.start if op.padded is None else op.padded
            piece = sound[op.start : min(op.stop, op.start + length)]
            mels.append(log_mel(piece, length=length, n_mels=op.n_mels, keep=op.frames))
            if self.prosody:
                mels[-1] = torch.cat([mels[-1], _prosody(piece, mels[-1].shape[1])])
        return torch.stack(mels) if self.chunk else mels[0]

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "mel", **asdict(self)}
