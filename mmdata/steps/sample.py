"""Keep a random share of the records, or of groups of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.rng import generator
from mmdata.spec import StepSpec
from mmdata.steps._columns import group
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "sample")
class SampleStep(StepSpec):
    """Keep a share of the records, chosen by a hash of what each is, keyed by `seed`. So the same records are kept
    whatever their order, the workers and the other records; and what is kept at 0.1 is also kept at 0.2.

    How many that are is a matter of chance: of n records n * fraction, give or take sqrt(n).
    """

    kind: Literal["sample"] = "sample"
    fraction: float = Field(gt=0, le=1)
    """The share that is kept."""
    by: str = "key"
    """The column that says what a record is. All records of one value are kept, or none: `url` keeps a sample through
    tables that list it in another row, `origin` takes whole files. A record without it is told apart by its key."""
    seed: int = 0

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        name = group(sample, self.by) or group(sample, "key")
        assert name is not None
        if generator(self.seed, self.kind, name).random() < self.fraction:
            return sample
        return Drop(reason=self.kind, detail=f"not in the {self.fraction:g} of seed {self.seed}")
