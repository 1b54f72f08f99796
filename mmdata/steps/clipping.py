"""Drop audio that was recorded or mastered too loud: cut at full range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import Wave, sounds, waveform
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 6
FLAT = 3  # Samples at the limit after each other: one or two may be a peak.


@register("step", "clipping")
class Clipping(StepSpec):
    """Write the share of samples of audio that are cut off as a column `clipping`, the largest of several; drop samples
    above `max`, as `clipping`. Cut off is a run of three samples or more, of a channel, at that file's highest or
    lowest value, if that is at least `level` of full range. Lossy coding hides clipping that was there before."""

    kind: Literal["clipping"] = "clipping"
    max: float = Field(0.001, ge=0, le=1)
    level: float = Field(0.98, gt=0, le=1)
    """Least value that can be a limit, of full range."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [clipped(waveform(media, mono=False), self.level) for media in sounds(sample)]
        if not values:
            return sample
        value = round(max(values), PLACES)
        if value > self.max:
            return Drop(reason=self.kind, detail=f"{value:.3%} of the samples, more than {self.max:.3%}")
        return with_columns(sample, {"clipping": value})


def clipped(wave: Wave, level: float) -> float:
    """The share of float32 [channels, samples] that is in runs at the limits.

    >>> clipped(np.array([[0, 1, 1, 1, 0, -1, -1, 0]], np.float32), 0.98)
    0.375
    """
    if not wave.size:
        return 0.0
    count = 0
    for signed in (wave, -wave):
        limit = float(signed.max())
        if limit >= level:
            at = np.pad(signed >= limit - 1e-6, ((0, 0), (1, 1)))
            edges = np.diff(at.astype(np.int8), axis=1)
            lengths = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
            count += int(lengths[lengths >= FLAT].sum())
    return count / wave.size
