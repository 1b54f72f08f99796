"""Drop samples for which an expression does not hold."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from mmdata import expression
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import columns
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "where")
class Where(StepSpec):
    """Drop samples for which an expression is not true.

    It reads the record's metadata by their own names (`WIDTH`, `similarity`, what earlier steps measured), and besides,
    where the metadata has no such name, `height`, `width`, `format`, `mode`, `frames`, `fps`, `seconds`, `sample_rate`,
    `channels` and `sha256` of the first medium (facts: null before `probe` has looked), its `url` and `host`, the first
    `caption`, and the record's `key` and `origin`. A name that a record lacks is null, and an expression on a null is
    not true. A value of the wrong type ends the record as `failed_permanent: where_type`.
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


names = columns
"""All names that a record offers to an expression, with their values."""
