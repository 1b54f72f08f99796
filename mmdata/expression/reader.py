"""The syntax of the `where` language: text to a function of columns, by a closed list of what is allowed."""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Callable, Mapping
from functools import reduce
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from mmdata.expression import values
from mmdata.expression.values import Value

LONGEST = 10_000  # Characters of an expression.
DEEPEST = 60  # Levels of nesting.

ALLOWED = (
    "column names, numbers, texts, True, False, comparisons, and, or, not, + - * / %, `in [...]`, `is None`, "
    f"and the functions {', '.join(values.FUNCTIONS)}, col"
)

Evaluate = Callable[[Mapping[str, pa.Array]], Value]


def read(text: str) -> tuple[Evaluate, frozenset[str]]:
    """The function that an expression is, and the columns it reads. Raises ValueError that shows the place."""
    if len(text) > LONGEST:
        raise ValueError(f"where: the expression has {len(text)} characters; at most {LONGEST} are allowed")
    if not text.strip():
        raise ValueError("where: the expression is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Whether "\d" means anything is for RE2 to say.
            # The brackets let an expression run over several lines.
            tree = ast.parse(f"(\n{text}\n)", mode="eval").body
    except SyntaxError as error:
        raise ValueError(_at(text, (error.lineno or 2) - 2, (error.offset or 1) - 1, error.msg)) from None
    except (RecursionError, MemoryError):  # How Python's parser says it.
        raise ValueError(f"where: nested too deeply: {text[:80]!r}") from None
    except ValueError as error:
        raise ValueError(f"where: cannot read {text[:80]!r}: {error}") from None
    if tree.lineno < 2:  # The brackets of the text pair with ours: `a) or (b`.
        raise ValueError(_at(text, 0, 0, "unbalanced brackets"))
    reader = _Reader(text)
    return reader.condition(tree), frozenset(reader.columns)


def _at(text: str, line: int, column: int, message: str) -> str:
    """A message that shows the place: 0-based line and character."""
    lines = text.split("\n")
    if line >= len(lines):
        line, column = len(lines) - 1, len(lines[-1])
    line, column = max(line, 0), max(column, 0)
    start = max(0, column - 60)
    return f"where: {message}\n    {lines[line][start : start + 120]}\n    {' ' * (column - start)}^"


class _Reader:
    """Turns the closed set of syntax below into functions of columns; everything else is refused by name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()
        self._depth = 0

    def wrong(self, node: ast.expr, message: str) -> ValueError:
        line = self.text.split("\n")[node.lineno - 2] if 2 <= node.lineno <= self.text.count("\n") + 2 else ""
        column = len(line.encode()[: node.col_offset].decode(errors="ignore"))
        return ValueError(_at(self.text, node.lineno - 2, column, message))

    def read(self, node: ast.expr) -> Evaluate:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self.wrong(node, f"nested more than {DEEPEST} levels deep")
        try:
            return self._read(node)
        finally:
            self._depth -= 1

    def _read(self, node: ast.expr) -> Evaluate:
        match node:
            case ast.Constant():
                return self.constant(node, node.value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
                number, bool
            ):
                return self.constant(node, -number)
            case ast.Name():
                return self.column(node.id)
            case ast.BoolOp():
                combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
                terms = [self.condition(value) for value in node.values]
                return lambda columns: reduce(combine, (term(columns) for term in terms))
            case ast.UnaryOp(op=ast.Not()):
                term = self.condition(node.operand)
                return lambda columns: pc.invert(term(columns))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                sign = ast.Sub() if isinstance(node.op, ast.USub) else ast.Add()
                return self.arithmetic(sign, ast.Constant(0), node.operand)
            case ast.BinOp() if type(node.op) in values.ARITHMETIC:
                return self.arithmetic(node.op, node.left, node.right)
            case ast.Compare():
                return self.comparison(node)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(node, name, arguments)
        raise self.wrong(node, f"{type(node).__name__} is not allowed; there are {ALLOWED}")

    def constant(self, node: ast.expr, value: object) -> Evaluate:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise self.wrong(node, "whole numbers have at most 64 bits")
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise self.wrong(node, f"{type(value).__name__} is not part of the language")
        scalar = pa.scalar(value, values.TEXT) if isinstance(value, str) else pa.scalar(value)
        return lambda columns: scalar

    def column(self, name: str) -> Evaluate:
        self.columns.add(name)
        return itemgetter(name)

    def condition(self, node: ast.expr) -> Evaluate:
        value, what = self.read(node), ast.unparse(node)
        return lambda columns: values.truth(value(columns), what)

    def number(self, node: ast.expr) -> Evaluate:
        value, what = self.read(node), ast.unparse(node)
        return lambda columns: values.number(value(columns), what)

    def arithmetic(self, op: ast.operator, left: ast.expr, right: ast.expr) -> Evaluate:
        compute, a, b = values.ARITHMETIC[type(op)], self.number(left), self.number(right)
        return lambda columns: values.floating(compute, a(columns), b(columns))

    def comparison(self, node: ast.Compare) -> Evaluate:
        left_node, left = node.left, self.read(node.left)
        results: list[Evaluate] = []
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            none = isinstance(right_node, ast.Constant) and right_node.value is None
            if isinstance(op, ast.Is | ast.IsNot):
                if not none:
                    raise self.wrong(right_node, "`is` is for None only; write ==")
                results.append(_is_none(left, isinstance(op, ast.IsNot)))
            elif none or (isinstance(left_node, ast.Constant) and left_node.value is None):
                raise self.wrong(right_node, "comparing with None is never true; write `is None` or `is not None`")
            elif isinstance(op, ast.In | ast.NotIn):
                results.append(self.membership(left_node, left, right_node, isinstance(op, ast.NotIn)))
                if len(node.ops) > 1:
                    raise self.wrong(node, "put brackets around the `in`")
            else:
                right = self.read(right_node)
                results.append(_compared(type(op), left, left_node, right, right_node))
                left = right
            left_node = right_node
        return lambda columns: reduce(pc.and_kleene, (result(columns) for result in results))

    def membership(self, node: ast.expr, value: Evaluate, items: ast.expr, negated: bool) -> Evaluate:
        if not isinstance(items, ast.List | ast.Tuple | ast.Set):
            raise self.wrong(
                items, 'right of `in` stands a list: [1, 2]; for a part of a text write contains(text, "part")'
            )
        if not items.elts:
            raise self.wrong(items, "nothing is in an empty list")
        equal = []
        for item in items.elts:
            if isinstance(item, ast.Constant) and item.value is None:
                raise self.wrong(item, "nothing equals None; write `is None`")
            equal.append(_compared(ast.Eq, value, node, self.read(item), item))

        def evaluate(columns: Mapping[str, pa.Array]) -> Value:
            found = reduce(pc.or_kleene, (one(columns) for one in equal))
            return pc.invert(found) if negated else found

        return evaluate

    def call(self, node: ast.Call, name: str, arguments: list[ast.expr]) -> Evaluate:
        if name == "col":
            return self.column(self.literal(node, name, arguments))
        if name not in values.FUNCTIONS:
            known = [*values.FUNCTIONS, "col"]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise self.wrong(node, f"no function is called {name!r}; {hint}known: {', '.join(known)}")
        function, fewest, most = values.FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            raise self.wrong(node, f"{name} takes {fewest if fewest == most else f'{fewest} or more'} arguments")
        what = [ast.unparse(argument) for argument in arguments]
        if name in values.SEARCHES:
            pattern = self.literal(node, name, arguments[1:])
            if name == "matches" and re.search("[\a\b\f\v]", pattern):
                raise self.wrong(arguments[1], r'a control character in the pattern: write r"\b", with an r in front')
            text = self.read(arguments[0])
            return lambda columns: function(values.text(text(columns), what[0]), pattern)
        inputs = [self.read(argument) for argument in arguments]
        return lambda columns: function([value(columns) for value in inputs], what)

    def literal(self, node: ast.expr, name: str, arguments: list[ast.expr]) -> str:
        match arguments:
            case [ast.Constant(value=str() as text)]:
                return text
        raise self.wrong(
            node, f'{name} needs a text in quotes here: {name}({"" if name == "col" else "column, "}"...")'
        )


def _is_none(value: Evaluate, negated: bool) -> Evaluate:
    test = pc.is_valid if negated else pc.is_null
    return lambda columns: test(value(columns))


def _compared(
    op: type[ast.cmpop], left: Evaluate, left_node: ast.expr, right: Evaluate, right_node: ast.expr
) -> Evaluate:
    what = ast.unparse(left_node), ast.unparse(right_node)
    return lambda columns: values.compare(op, left(columns), right(columns), what)
