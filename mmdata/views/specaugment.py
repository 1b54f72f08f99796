"""SpecAugment: bands of frequency and of time are blanked in a spectrogram; which ones is drawn by key, on integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmdata.errors import SpecError
from mmdata.rng import generator

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Mask:
    """Rows (`frequency`) or frames (`time`) start <= i < stop."""

    axis: Literal["frequency", "time"]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecAugment:
    """How much to blank: `frequency_masks` of up to `frequency` mel bins each, `time_masks` of up to `time` frames each
    and never more than `time_share` of the clip. Defaults are LibriSpeech Double of Park et al. (2019), without the
    time warp, which they found to matter least."""

    frequency_masks: int = 2
    frequency: int = 27
    time_masks: int = 2
    time: int = 100
    time_share: float = 1.0

    def __post_init__(self) -> None:
        if min(self.frequency_masks, self.frequency, self.time_masks, self.time) < 0 or not 0 <= self.time_share <= 1:
            raise SpecError(f"specaugment: counts and widths from 0, time_share from 0 to 1, not {self}")

    def plan(self, n_mels: int, frames: int, *draw: int | str) -> tuple[Mask, ...]:
        """The masks of a spectrogram of `n_mels` x `frames`, by a generator keyed with `draw` (seed, epoch, key, ...).

        A width is drawn from 0 to the limit, both included, then a place where it fits.

        >>> SpecAugment(time=10, time_masks=1).plan(80, 40, 0, "a") == SpecAugment(time=10, time_masks=1).plan(
        ...     80, 40, 0, "a")
        True
        """
        random = generator("specaugment", *draw)
        masks = []
        axes: tuple[tuple[Literal["frequency", "time"], int, int, int], ...] = (
            ("frequency", self.frequency_masks, self.frequency, n_mels),
            ("time", self.time_masks, min(self.time, int(self.time_share * frames)), frames),
        )
        for axis, count, limit, size in axes:
            for _ in range(count):
                width = int(random.integers(0, min(limit, size) + 1))
                start = int(random.integers(0, size - width + 1))
                masks.append(Mask(axis, start, start + width))
        return tuple(masks)


def apply(mel: torch.Tensor, masks: tuple[Mask, ...], *, value: float | None = None) -> torch.Tensor:
    """A copy of a spectrogram float32 [n_mels, frames] whose masked parts are `value`, or None for its mean."""
    out = mel.clone()
    fill = float(mel.mean()) if value is None and mel.numel() else value or 0.0
    for mask in masks:
        if mask.axis == "frequency":
            out[..., mask.start : mask.stop, :] = fill
        else:
            out[..., mask.start : mask.stop] = fill
    return out
