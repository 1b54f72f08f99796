"""The view of encoders that take a waveform as it is: Wav2Vec2, HuBERT, WavLM."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmdata.decode.resample import resampled_length
from mmdata.errors import DataError, SpecError
from mmdata.types import Media, MediaPlan, Wave
from mmdata.views.mel import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of the convolutions of Wav2Vec2 and those that came after: a position every 320 samples, 50 a second."""
EPS = 1e-7


def num_positions(samples: int, kernels: tuple[int, ...] = KERNELS, strides: tuple[int, ...] = STRIDES) -> int:
    """Positions that the convolutions make of so many samples (transformers: `_get_feat_extract_output_lengths`).

    >>> num_positions(16_000), num_positions(400), num_positions(399)
    (49, 1, 0)
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Audio becomes its samples at 16 kHz, float32 [samples], and a token for every `pool` positions of an encoder of
    these convolutions. With `normalise` the clip has mean 0 and variance 1, as `Wav2Vec2FeatureExtractor` makes it;
    what is longer than `longest` samples is cut. A clip too short for one position is refused (`audio_too_short`)."""

    kernels: tuple[int, ...] = KERNELS
    strides: tuple[int, ...] = STRIDES
    normalise: bool = True
    pool: int = 2
    longest: int | None = 30 * SAMPLE_RATE

    def __post_init__(self) -> None:
        if self.pool < 1 or len(self.kernels) != len(self.strides):
            raise SpecError(f"view waveform: pool {self.pool} of kernels {self.kernels} and strides {self.strides}")

    def plan(self, facts: Media) -> MediaPlan:
        """What becomes of an audio of `facts.samples` at `facts.sample_rate`.

        >>> plan = Waveform().plan(Media(kind="audio", samples=44_100, sample_rate=44_100))
        >>> plan.tokens, plan.shape
        (24, (16000,))
        """
        if facts.samples is None or not facts.sample_rate:
            raise DataError(
                "no_facts", "samples and sample_rate of the audio are not known; build it with a `probe` step"
            )
        whole = resampled_length(facts.samples, facts.sample_rate, SAMPLE_RATE)
        if whole < 1:
            raise DataError("empty_audio", "no samples")
        samples = whole if self.longest is None else min(whole, self.longest)
        positions = num_positions(samples, self.kernels, self.strides)
        if positions < 1:
            raise DataError("audio_too_short", f"{samples} samples; the encoder makes no position of them")
        tokens = positions // self.pool
        return MediaPlan(kind="audio", tokens=tokens, shape=(samples,), ops=(Wave(whole, samples),))

    def realize(self, wave: npt.NDArray[np.float32] | torch.Tensor, plan: MediaPlan) -> torch.Tensor:
        """A mono waveform float32 [samples] at 16 kHz to float32 of `plan.shape`. Raises DataError `facts_mismatch`
        where it does not have the planned number of samples."""
        import torch

        sound = torch.as_tensor(wave, dtype=torch.float32)
        (op,) = plan.ops
        assert isinstance(op, Wave), plan
        if sound.ndim != 1 or len(sound) != op.samples:
            raise DataError("facts_mismatch", f"a waveform {list(sound.shape)}, planned for {op.samples:,} samples")
        sound = sound[: op.keep]
        if self.normalise:
            sound = (sound - sound.mean()) / (sound.var(correction=0) + EPS).sqrt()
        return sound

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "waveform", **asdict(self)}
