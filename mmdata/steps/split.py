"""Part the records into train, validation and test sets by group, so that nothing of one source is in two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.rng import generator
from mmdata.spec import StepSpec
from mmdata.steps._columns import group, with_columns
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "split")
class Split(StepSpec):
    """Say of each record which set it belongs to, by a hash of its group keyed by `seed`: all records of a group are in
    one set, whatever their order, the workers, and what else there is. Frames, crops and clips of one source must share
    a column, and `by` names it; near-duplicates are best removed before (`near_dup`), for they cross unseen.

    The set becomes a column, and with `keep` a dataset holds one of them: build once per set with another
    `output.path` (`--set steps.split.keep=test --output data/test`); what is left out ends as `filtered: split`.
    """

    kind: Literal["split"] = "split"
    by: str
    """The column whose values are the groups: one of the metadata, or `key`, `origin`, `url`, `host`, `sha256`, ..."""
    shares: dict[str, float] = Field({"train": 0.98, "val": 0.01, "test": 0.01}, min_length=2)
    """The sets and their shares of the groups, in any unit. Groups are shared out; if some are large, the shares of
    records differ from these."""
    keep: str | tuple[str, ...] | None = None
    """The sets that go into this dataset. Default: all, told apart by the column."""
    column: str = "split"
    """The name of the column."""
    missing: Literal["drop", "own"] = "drop"
    """A record without the column: dropped as `split_no_group`, for nobody knows what it belongs to, or a group of its
    `own`."""
    seed: int = 0

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if any(share <= 0 for share in self.shares.values()):
            raise ValueError("shares: each must be above 0; leave a set out that is to be empty")
        for name in self._kept:
            if name not in self.shares:
                raise ValueError(f"keep: no set is called {name!r}; shares names {', '.join(self.shares)}")
        return self

    @property
    def _kept(self) -> tuple[str, ...]:
        return tuple(self.shares) if self.keep is None else (self.keep,) if isinstance(self.keep, str) else self.keep

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        name = group(sample, self.by)
        if name is None:
            if self.missing == "drop":
                return Drop(reason="split_no_group", detail=f"no {self.by}")
            name = f"key {group(sample, 'key')}"
        if self.column in sample.meta:
            raise DataError(
                "split_column", f"the record has a column {self.column} already; give `column` another name"
            )
        found = self.set_of(name)
        if found not in self._kept:
            return Drop(reason=self.kind, detail=found)
        return with_columns(sample, {self.column: found})

    def set_of(self, name: str) -> str:
        """The set of a group: a function of seed, shares and the group's name alone.

        >>> Split(by="film").set_of("7") in ("train", "val", "test")
        True
        """
        draw = generator(self.seed, self.kind, name).random() * sum(self.shares.values())
        for found, share in self.shares.items():
            draw -= share
            if draw < 0:
                return found
        return found
