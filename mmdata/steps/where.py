"""Drop samples for which an expression does not hold."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from mmdata import expression
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

FACTS = ("height", "width", "format", "mode", "frames", "seconds")


@register("step", "where")
class Where(StepSpec):
    """Drop samples for which an expression is not true.

    It reads the record's metadata by their own names (`WIDTH`, `similarity`), and besides, where the metadata has
    no such name, `height`, `width`, `format`, `mode`, `frames` and `seconds` of the first medium (facts: null before
    `probe` has looked) and `caption`, the first caption. A name that a record lacks is null, and an expression on a
    null is not true. A value of the wrong type ends the record as `failed_permanent: where_type`.
    """

    kind: Literal["where"] = "where"
    expression: str
    """Python's syntax, SQL's nulls, for example `width >= 256 and similarity > 0.3 and NSFW in ["UNLIKELY"]`.
    There are comparisons (also chained), `and`, `or`, `not`, `+ - * / %`, `in [...]`, `is None`, and the functions
    is_null, coalesce, len, lower, contains, startswith, endswith, matches (RE2), abs, min, max and col("odd name").
    Text that stands where a number is needed is read as a number."""

    @field_validator("expression")
    @classmethod
    def _compiles(cls, value: str) -> str:
        expression.compile(value)
        return value

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        where = expression.compile(self.expression)
        row = names(sample)
        missing = sorted(where.columns - row.keys())
        if where.test({**dict.fromkeys(missing), **row}):
            return sample
        detail = self.expression
        if missing:  # So that a misspelt name shows in the report.
            close = difflib.get_close_matches(missing[0], list(row), n=1)
            detail += f" (no {', '.join(missing)}{f'; did you mean {close[0]}?' if close else ''})"
        return Drop(reason=self.kind, detail=detail)


def names(sample: Sample) -> dict[str, Any]:
    """All names that a record offers to an expression, with their values."""
    row: dict[str, Any] = dict.fromkeys((*FACTS, "caption"))
    if sample.media:
        row |= {name: getattr(sample.media[0], name) for name in FACTS}
    row["caption"] = next((text.text for text in sample.texts if text.role == "caption"), None)
    return row | dict(sample.meta)
