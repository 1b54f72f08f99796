"""What the operators and functions of the `where` language do to columns: types, nulls, numbers.

A value is a pa.Array or pa.Scalar of bool, int64, float64, large_string or null; of another type only to be refused.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmdata.errors import DataError

Value = Any
TEXT, TRUTH, REAL, WHOLE = pa.large_string(), pa.bool_(), pa.float64(), pa.int64()
DECIMAL = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
MANY = 100  # Most arguments of a function that takes any number.


def alike(values: list[Value], what: Sequence[str]) -> list[Value]:
    """Values brought to one type: numbers if one is a number, truth values if one is, else texts."""
    types = [value.type for value in values]
    for value, name in zip(values, what, strict=True):
        if value.type not in (TEXT, TRUTH, REAL, WHOLE, pa.null()):
            raise _wrong(value, name, "a number, a text or a truth value")
    if REAL in types or WHOLE in types:
        values = [number(value, name) for value, name in zip(values, what, strict=True)]
        return values if all(value.type == WHOLE for value in values) else [_cast(value, REAL) for value in values]
    if TRUTH in types:
        return [truth(_flag(value), name) for value, name in zip(values, what, strict=True)]
    return [_cast(value, TEXT) for value in values]


def _wrong(value: Value, what: str, needed: str) -> DataError:
    kind = {TEXT: "text", TRUTH: "a truth value", REAL: "a number", WHOLE: "a whole number"}.get(value.type)
    return DataError("where_type", f"{what} is {kind or f'of type {value.type}'}; {needed} is needed")


def _cast(value: Value, to: pa.DataType) -> Value:
    return value if value.type == to else pc.cast(value, to, safe=False)


def number(value: Value, what: str) -> Value:
    """int64 or float64; text is read as a decimal number."""
    if value.type in (REAL, WHOLE):
        return value
    if value.type == TEXT:
        trimmed = pc.ascii_trim_whitespace(value)
        readable = pc.match_substring_regex(trimmed, DECIMAL)
        return pc.cast(pc.if_else(readable, trimmed, pa.scalar(None, TEXT)), REAL)
    if value.type == pa.null():
        return _cast(value, REAL)
    raise _wrong(value, what, "a number")


def text(value: Value, what: str) -> Value:
    if value.type in (TEXT, pa.null()):
        return _cast(value, TEXT)
    raise _wrong(value, what, "a text")


def truth(value: Value, what: str) -> Value:
    if value.type in (TRUTH, pa.null()):
        return _cast(value, TRUTH)
    raise _wrong(value, what, "a truth value (a comparison, for example)")


def _flag(value: Value) -> Value:
    """The texts `true` and `false` as truth values."""
    if value.type != TEXT:
        return value
    lower = pc.ascii_lower(pc.ascii_trim_whitespace(value))
    no_flag = pc.invert(pc.match_substring_regex(lower, "^(true|false)$"))
    return pc.if_else(no_flag, pa.scalar(None, TRUTH), pc.equal(lower, pa.scalar("true", TEXT)))


def floating(compute: Callable[..., Any], *values: Value) -> Value:
    """A numpy function of 64-bit floats, in which null and NaN are one."""
    with np.errstate(all="ignore"):
        result = compute(*(_floats(value) for value in values))
    if np.ndim(result) == 0:
        return pa.scalar(None if np.isnan(result) else float(result), REAL)
    return pa.array(result, REAL, from_pandas=True)


def _floats(value: Value) -> Any:
    if isinstance(value, pa.Scalar):
        return np.float64(value.as_py() if value.is_valid else np.nan)
    return value.to_numpy(zero_copy_only=False).astype(np.float64)


def _nonzero(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: np.where(b == 0, np.nan, compute(a, b))


def _numeric(compute: Callable[..., Any]) -> Callable[[list[Value], list[str]], Value]:
    return lambda values, what: reduce(
        partial(floating, compute), [number(value, name) for value, name in zip(values, what, strict=True)]
    )


ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _nonzero(np.divide),
    ast.Mod: _nonzero(np.mod),
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
SEARCHES = ("contains", "startswith", "endswith", "matches")
# Name: what it computes, fewest and most arguments.
FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    # is_null(x): never null itself
    "is_null": (lambda values, what: pc.is_null(values[0]), 1, 1),
    # coalesce(a, b, ...): the first that is not null; of one type, as for a comparison
    "coalesce": (lambda values, what: pc.coalesce(*alike(values, what)), 2, MANY),
    # len(s): characters (code points); lower(s): lower case
    "len": (lambda values, what: pc.utf8_length(text(values[0], what[0])), 1, 1),
    "lower": (lambda values, what: pc.utf8_lower(text(values[0], what[0])), 1, 1),
    # of a text and a quoted one; matches(s, "regex"): RE2 finds the pattern anywhere in s
    "contains": (pc.match_substring, 2, 2),
    "startswith": (pc.starts_with, 2, 2),
    "endswith": (pc.ends_with, 2, 2),
    "matches": (pc.match_substring_regex, 2, 2),
    # of numbers; min and max are null as soon as one argument is
    "abs": (lambda values, what: floating(np.abs, number(values[0], what[0])), 1, 1),
    "min": (_numeric(np.minimum), 2, MANY),
    "max": (_numeric(np.maximum), 2, MANY),
}


def column(value: object) -> pa.Array:
    """One value as a column of its own type."""
    if isinstance(value, str):
        return pa.array([value.encode("utf-8", "replace").decode()], TEXT)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            value = float(value)
        except OverflowError:
            value = float("inf") if value > 0 else float("-inf")
    try:
        return pa.array([value])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        # Nothing that a column holds.
        return pa.array([[]], pa.list_(pa.null()))


def loaded(column: pa.Array) -> pa.Array:
    """A column as the evaluator wants it: bool, int64, float64 without NaN, or large_string; others as they are."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return column.cast(TEXT)
    if pa.types.is_uint64(kind) and (pc.max(column).as_py() or 0) >= 2**63:
        return column.cast(REAL, safe=False)
    if pa.types.is_integer(kind):
        return column.cast(WHOLE)
    if pa.types.is_decimal(kind):
        return column.cast(REAL, safe=False)
    if pa.types.is_floating(kind):
        column = column.cast(REAL)
        return pc.if_else(pc.is_nan(column), pa.scalar(None, REAL), column)
    return column


def compare(op: type[ast.cmpop], left: Value, right: Value, what: tuple[str, str]) -> Value:
    """One comparison. Raises DataError("where_type", ...) for what cannot be compared."""
    a, b = alike([left, right], what)
    if a.type == TRUTH and op not in (ast.Eq, ast.NotEq):
        raise DataError("where_type", f"{what[0]} and {what[1]} are truth values, which have no order")
    return COMPARISONS[op](a, b)
