"""Keep no more than a number of records of each group."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import OrderedState, OrderedStepSpec
from mmdata.steps._columns import group
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

SIZE = 16


@register("step", "limit_per")
class LimitPer(OrderedStepSpec):
    """Keep the first `most` records of each group, in the order of the input; the rest end as `filtered: limit_per`. A
    record that another step rejects is not counted. The main process holds about 150 bytes for each group."""

    kind: Literal["limit_per"] = "limit_per"
    by: str
    """The column whose values are the groups: `host`, `origin`, `sha256`, or one of the metadata. Records without it
    are not limited."""
    most: int = Field(ge=1)
    """Most records of a group."""

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        name = group(sample, self.by)
        return {} if name is None else {self.kind: hashlib.sha256(name.encode()).digest()[:SIZE]}

    def state(self) -> OrderedState:
        return _Kept(self)


class _Kept:
    def __init__(self, spec: LimitPer) -> None:
        self._spec = spec
        self._counts: dict[bytes, int] = {}

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        name = signature.get(self._spec.kind)
        if name is None or self._counts.get(name, 0) < self._spec.most:
            return None
        return Drop(reason=self._spec.kind, detail=f"{self._spec.most} of this {self._spec.by} are kept already")

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        name = signature.get(self._spec.kind)
        if name is not None:
            self._counts[name] = self._counts.get(name, 0) + 1
