"""Keep the numbers of records of a few classes within a ratio of each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mmdata.registry import register
from mmdata.spec import OrderedState, OrderedStepSpec
from mmdata.steps._columns import group
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len({json.dumps(one) for one in value}) < len(value):
        raise ValueError("each may be named once")
    return value


@register("step", "balance")
class Balance(OrderedStepSpec):
    """Keep a record only while its class has no more than `ratio` times the records of the rarest class, and `slack`
    more. This holds after every record, so also of every prefix of the dataset and at its end; the input need not be
    read twice. The rest end as `filtered: balance`, those of no named class as `filtered: balance_class`.

    An input that is sorted by class starves: what comes first is rejected until the others come. Give such an input
    a larger `slack`.
    """

    kind: Literal["balance"] = "balance"
    by: str
    """The column that says the class."""
    classes: Annotated[tuple[str | int | bool, ...], AfterValidator(_distinct)] = Field(min_length=2)
    """The values of the column that are balanced. All must be named: the rarest class may be one that has not come
    yet."""
    ratio: float = Field(1.0, ge=1)
    """How many times as frequent as the rarest the other classes may be."""
    slack: int = Field(100, ge=1)
    """How many records more than that a class may have at any time."""

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        return {self.kind: (group(sample, self.by) or "null").encode()}

    def state(self) -> OrderedState:
        return _Kept(self)


class _Kept:
    def __init__(self, spec: Balance) -> None:
        self._spec = spec
        self._counts = {json.dumps(name, ensure_ascii=False).encode(): 0 for name in spec.classes}

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        spec = self._spec
        name = signature.get(spec.kind)
        if name is None:
            return None
        if name not in self._counts:
            return Drop(reason="balance_class", detail=f"{spec.by} is {name.decode()}, none of the classes")
        least = min(self._counts.values())
        if self._counts[name] + 1 <= spec.ratio * least + spec.slack:
            return None
        return Drop(reason=spec.kind, detail=f"{self._counts[name]} of {name.decode()}, {least} of the rarest class")

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        name = signature.get(self._spec.kind)
        if name in self._counts:
            self._counts[name] += 1
