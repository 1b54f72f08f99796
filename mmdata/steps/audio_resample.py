"""Bring audio to one sample rate, one number of channels and one format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._sounds import encoded, facts, replaced, waveform
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "audio_resample")
class AudioResample(StepSpec):
    """Resample audio to `sample_rate`, mix it down if `mono`, and write it as 16-bit FLAC or WAV. Audio that is so
    already keeps its bytes. The resampler is `torchaudio.functional.resample`'s windowed sinc."""

    kind: Literal["audio_resample"] = "audio_resample"
    sample_rate: int = Field(16_000, ge=1000, le=384_000)
    """Hz."""
    mono: bool = True
    """The mean of the channels."""
    format: Literal["flac", "wav"] = "flac"

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        return replaced(sample, self._resampled)

    def _resampled(self, media: Media) -> Media:
        known = media if media.sample_rate and media.channels and media.format else facts(media)
        channels = 1 if self.mono else known.channels
        if (known.sample_rate, known.channels, known.format) == (self.sample_rate, channels, self.format):
            return media
        wave = waveform(media, sample_rate=self.sample_rate, mono=self.mono)
        return encoded(media, wave, self.sample_rate, self.format)
