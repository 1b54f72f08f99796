"""The `where` language: a safe expression over the columns of a table, or over the fields of one record.

Python's syntax, SQL's meaning. What is there:

    WIDTH >= 256 and 0.5 <= WIDTH / HEIGHT <= 2      comparisons (chained too), and, or, not, + - * / %
    LICENSE in ["cc-by", "cc0"] and NSFW != "NSFW"   `in` and `not in` a list
    similarity is not None                           `is None`, the same as is_null(similarity)
    matches(lower(TEXT), r"\\bcats?\\b")               functions: see `FUNCTIONS` in values.py
    col("image width") > 100                         a column whose name is no Python name

**Null.** A null makes what it enters null, SQL's three-valued way: `null and False` is False, `null or True` is
True, `not null` is null. A row is kept only where the whole is true. NaN is null. `x == None` would never be true
and is refused.

**Types.** A column holds numbers, texts or truth values.
- Text where a number is needed (the other side of a comparison is a number; arithmetic; `abs`, `min`, `max`) is
  read as a decimal number, so that tables whose columns are all text work. What does not read as one is null.
- Text compared with a truth value is read as `true` or `false` (any case), else null.
- Two texts compare by code point, so "10" < "9": write `a + 0 < b + 0` to compare text columns by value.
- Whole numbers compare exactly with each other. Arithmetic, `abs`, `min`, `max` and comparisons that involve a
  fraction are done in 64-bit floating point. Division by zero is null; `%` has the divisor's sign, as in Python.
- Any other mixture (a number as a condition, `lower` of a number, lists, dates) raises
  DataError("where_type", ...) that names the column and its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmdata.errors import DataError
from mmdata.expression import reader, values
from mmdata.registry import nearest


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A compiled `where`. `text` is its source, `columns` the names it reads."""

    text: str
    columns: frozenset[str]
    _evaluate: reader.Evaluate

    def __reduce__(self) -> tuple[Any, ...]:
        return compile, (self.text,)

    def mask(self, table: pa.Table | pa.RecordBatch) -> pa.BooleanArray:
        """Which rows to keep: bool[rows], without nulls.

        Raises DataError: `missing_column`, `ambiguous_column`, `where_type`, and `where_data` for text that is
        not UTF-8.
        """
        names = table.schema.names
        for name in sorted(self.columns):
            if names.count(name) != 1:
                reason = "ambiguous_column" if name in names else "missing_column"
                known = "it is there several times" if name in names else nearest(name, list(names))
                raise DataError(reason, f"where: no single column is called {name!r}; {known}")
        batches = table.to_batches() if isinstance(table, pa.Table) else [table]
        masks = [
            self._mask({name: values.loaded(batch.column(name)) for name in self.columns}, batch.num_rows)
            for batch in batches
        ]
        return pa.concat_arrays([pa.array([], values.TRUTH), *masks])

    def test(self, row: Mapping[str, Any]) -> bool:
        """Whether to keep one record: the same meaning as `mask`, its values being judged by their own types.
        Raises DataError as `mask` does."""
        for name in self.columns:
            if name not in row:
                raise DataError("missing_column", f"where: the record has no {name!r}; {nearest(name, list(row))}")
        return bool(self._mask({name: values.loaded(values.column(row[name])) for name in self.columns}, 1)[0].as_py())

    def _mask(self, columns: Mapping[str, pa.Array], rows: int) -> pa.BooleanArray:
        try:
            value = self._evaluate(columns)
            if isinstance(value, pa.Scalar):
                value = pa.repeat(value, rows)
            return pc.fill_null(value, False)
        except pa.ArrowInvalid as error:
            raise DataError("where_data", f"{self.text}: {error}") from error


def compile(text: str) -> Expression:
    """Read an expression. Raises ValueError that shows the place and says what is known.

    >>> wide = compile("WIDTH > 2 * HEIGHT")
    >>> sorted(wide.columns), wide.test({"WIDTH": "300", "HEIGHT": 100}), wide.test({"WIDTH": None, "HEIGHT": 1})
    (['HEIGHT', 'WIDTH'], True, False)
    >>> wide.mask(pa.table({"WIDTH": [10, 30, None], "HEIGHT": [10, 10, 10]})).to_pylist()
    [False, True, False]
    """
    if not isinstance(text, str):
        raise ValueError(f"where: a text is needed, not {type(text).__name__}")
    return _compile(text)


@lru_cache(maxsize=64)
def _compile(text: str) -> Expression:
    evaluate, columns = reader.read(text)
    expression = Expression(text, columns, evaluate)
    try:  # Nulls have every type: what goes wrong on them does so whatever the columns hold.
        expression.test(dict.fromkeys(columns))
    except DataError as error:
        raise ValueError(f"where: {error.detail}") from None
    return expression
