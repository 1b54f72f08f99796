"""Functions in C that are called for each sample, beside their twins in Python: the same bytes, or no answer at all."""

from __future__ import annotations

import itertools
import json
import math
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdata import arrays
from mmdata.decode import glance
from mmdata.engine import adopt_plain, commit
from mmdata.errors import DataError
from mmdata.native import calls
from mmdata.shards import index, tar
from tests.decode.test_glance import COMMON, UNUSUAL

pytestmark = pytest.mark.skipif(calls.calls() is None, reason="the functions were not compiled")
COMPILED = calls.calls()
TEXTS = st.text(st.characters() | st.sampled_from('"\\\x00\x1f\x7f\u2028\ud800\U0001f600'), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS | st.binary(max_size=9)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(TEXTS | PLAIN, inner),
    max_leaves=12,
)


class Without:
    """These modules without what was compiled."""

    def __init__(self, *modules: Any) -> None:
        self._modules = modules
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for module in self._modules:
            self._patch.setattr(module, "calls", lambda: None)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def answer(function: Any, *given: Any) -> Any:
    """What it returns, or the kind of what it raises."""
    try:
        return function(*given)
    except Exception as error:
        return type(error)


@given(
    st.text(max_size=110) | st.from_regex(r"[a-z0-9/]{1,100}", fullmatch=True),
    st.integers(0, 8**11 + 2) | st.sampled_from([0, 8**11 - 1]),
)
@example("x" * 100, 8**11 - 1)
@example("名" * 33, 0)
def test_headers(name: str, size: int) -> None:
    made = answer(tar.header, name, size)
    with Without(tar):
        assert made == answer(tar.header, name, size)
    fits = 1 <= len(name.encode()) <= 100 and size < 8**11
    assert (made == COMPILED.header(name, size)) if fits else (made is DataError)


@settings(max_examples=400)
@given(VALUES)
@example([1.5, -0.0, 1e300, 1e-7, 1e16, -(2**63), 2**63 - 1, 2**63, math.inf, math.nan, True])
@example(["\ud800", "\x7f", "é", "\U0001f600", "/", "\b\f\n\r\t"])
@example([[[["x" * 5000] * 3]]])
def test_json(value: Any) -> None:
    row = answer(index.json_bytes, value)
    readable = COMPILED.json(value, True)
    with Without(index):
        assert row == answer(index.json_bytes, value)
    assert readable is None or readable == commit._meta_text(value).encode()


def test_json_of_rows_is_written_here() -> None:
    """Else it would only be slower, and nobody would see."""
    row = ["key", 1, None, True, [("jpg", 512, 0.5, b"\x00\xff", "naïve 名前 \U0001f600")], []]
    assert COMPILED.json(row, False) == index.json_of(row).encode()
    meta = {"b": 1, "a": {"é": ["\x7f", None]}, "": -7}
    assert (
        COMPILED.json(meta, True)
        == json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    )


def buffers(values: list[Any], type: pa.DataType) -> list[Any]:
    array = arrays.column(values, type)
    array.validate(full=True)
    return [len(array), array.null_count, *(each and each.to_pybytes() for each in array.buffers())]


@settings(max_examples=300)
@given(
    st.sampled_from(list(arrays._KINDS)),
    st.data(),
)
def test_columns(type: pa.DataType, data: st.DataObject) -> None:
    own = {
        pa.string(): TEXTS,
        pa.binary(): st.binary(max_size=9),
        pa.float64(): st.floats(),
        pa.bool_(): st.booleans(),
    }.get(type, st.integers(-(2**33), 2**33) | st.integers(0, 99))
    values = data.draw(st.lists(own | st.none(), max_size=40) | st.lists(own | PLAIN, max_size=5))
    found = answer(buffers, values, type)
    with Without(arrays):
        assert found == answer(buffers, values, type)


def test_columns_of_their_own_kind_are_made_here() -> None:
    own = ["é", b"\xff", -(2**31), -(2**63), 2**32 - 1, 0.5, True]
    for kind, value in enumerate(own):
        assert COMPILED.column([value, None], kind) is not None
        assert COMPILED.column([[], ()], kind) is None
    assert COMPILED.column([2**32], 4) is COMPILED.column([-1], 4) is COMPILED.column([2**31], 2) is None


OBJECTS = st.dictionaries(
    st.sampled_from(["caption", "text", "TEXT", "messages", "conversations", "Text", "a"]) | TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=400)
@given(
    OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.integers(0, 500), st.binary(max_size=2), st.integers(0, 2)
)
@example({"a": 1}, True, None, 500, b" \n", 0)
@example({"a": 1}, True, None, 500, b"x", 0)
@example({"a": 1}, True, None, 5, b"0", 0)
@example({"a": 1}, True, None, 500, b"\x00", 0)
def test_objects(value: dict[str, Any], ascii: bool, indent: int | None, at: int, put: bytes, drop: int) -> None:
    """Whatever is done to its bytes, an object is what Python's parser says of it."""
    whole = json.dumps(value, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass")
    changed = whole[:at] + put + whole[at + drop :]
    members = [whole, changed]
    found = adopt_plain._objects(members)
    assert found == adopt_plain._parsed(members) == [adopt_plain._object(member) for member in members]


def test_common_objects_are_told_without_a_parser() -> None:
    common = [
        b"{}",
        b'{ "text": [1.5e-3, true, null, {"\\u00e9": "\xc3\xa9"}] }\n',
        b'{"messages": 0}',
        b'{"a": "\\n"}',
    ]
    assert COMPILED.named(common, adopt_plain._NAMES) == [0, 2, 8, 0]
    odd = [
        b"",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"\\u0061": 1}',
        b'{"a": 01}',
        b"{}\0",
    ]
    deep = b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}"
    assert COMPILED.named([*odd, deep], adopt_plain._NAMES) == [-1] * (len(odd) + 1)


@given(st.sampled_from([picture for picture in (*COMMON.values(), *UNUSUAL.values()) if picture]), st.data())
def test_glances(picture: bytes, data: st.DataObject) -> None:
    changed = bytearray(picture)
    for at in data.draw(st.lists(st.integers(0, min(700, len(picture)) - 1), max_size=3)):
        changed[at] = data.draw(st.integers(0, 255))
    heads = [picture, bytes(changed[: data.draw(st.integers(0, len(changed)))]), bytes(changed), b""]
    seen = glance.glances(heads, max_pixels=23 * 41)
    with Without(glance):
        assert seen.tolist() == glance.glances(heads, max_pixels=23 * 41).tolist()


def test_a_common_picture_is_seen() -> None:
    heads = [picture[:1024] for picture in COMMON.values()]
    singly = [glance.glance(picture, max_pixels=10**6) for picture in COMMON.values()]
    told = [[each.height, each.width, len(each.mode)] if each else None for each in singly]
    seen = glance.glances(heads, max_pixels=10**6).tolist()
    assert any(seen)
    assert all(one in ([0, 0, 0], other) for one, other in zip(seen, told, strict=True)), (seen, told)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("header", ()),
        ("header", (b"a", 1)),
        ("json", (1,)),
        ("column", ((n for n in ()), 0)),
        ("column", ([], "0")),
        ("glances", ([1], 5)),
        ("glances", ((), 5)),
        ("named", ([], ("a",))),
        ("members", (b"", 0, 0, 0, 1, list)),
        ("members", (bytearray(), 0, 0, 0, 1, tuple)),
        ("alike", (0, 0, 0, 1, [b".a"], 4096, 1024, None)),
        ("alike", (0, 0, 0, 1, (), 4096, 1024, None)),
        ("alike", (0, 0, 0, "1", (b".a",), 4096, 1024, None)),
        ("alike", (0, 0, 0, 1, (b".a",), 4096, 1024, (b"pp", 9, ()))),
        ("alike", (0, 0, 0, 1, (b".a",), 4096, 1024, (b"p", "9", ()))),
        ("alike", (0, 0, 0, 1, (b".a",), 4096, 1024, (b"p", 9, ("a",)))),
        ("alike", (0, 0, 0, 1, (b".a",), 4096, 1024, [b"p", 9, ()])),
        ("Samples", ()),
        ("Samples", (None, "0", [0], (b"",) * 7, [], 1, 1)),
        ("Samples", (None, 0, range(1), (b"",) * 7, [], 1, 1)),
        ("Samples", (None, 0, [0], [b""] * 7, [], 1, 1)),
        ("Samples", (None, 0, [0], (b"",) * 6, [], 1, 1)),
        ("Samples", (None, 0, [0], (*(b"",) * 6, ""), [], 1, 1)),
        ("Samples", (None, 0, [0], (b"",) * 7, (), 1, 1)),
    ],
)
def test_what_they_cannot_take_is_refused(name: str, given: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        getattr(COMPILED, name)(*given)


@pytest.mark.parametrize(
    "given", [(0, -1, 9, 1, 4096, 9), (0, 0, 9, 0, 4096, 9), (0, 0, 9, 1, 100, 9), (0, 0, 9, 1, 512, 513)]
)
def test_what_is_no_run_is_refused(given: tuple[int, ...]) -> None:
    *place, chunk, head = given
    with pytest.raises(ValueError, match="no such run"):
        COMPILED.alike(*place, (b".a",), chunk, head, None)
    for wrong in ((1, 0, 9), (-1, 0, 9), (0, -1, 9), (0, 9, 8)):
        with pytest.raises(ValueError, match="no such place"):
            COMPILED.members(b"", *wrong, 1, tuple)
    with pytest.raises(ValueError, match="no such kind"):
        COMPILED.column([], 7)


FILE = bytes(range(256)) * 20
KEYS, NAMES = b"ab\xc3\xa9c", b"jpgtxt\xffjson"
COLUMNS = (
    np.array([0, 1, 2, 4, 5], np.int32),
    KEYS,
    np.array([0, 2, 3, 3, 5], np.int32),
    np.array([0, 3, 6, 6, 7, 11], np.int32),
    NAMES,
    np.array([0, 600, 9, 1200, 2000], np.int64),
    np.array([100, 5, 0, 0, 3120], np.int64),
)
"""Of four rows: the second has no part that was kept, the third none, and a name in the last one is no text."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("samples") / "file"
    path.write_bytes(FILE)
    with open(path, "rb") as file:
        yield file.fileno()


def samples(file: int, rows: list[Any], columns: tuple[Any, ...], together: int, known: list[Any]) -> Any:
    return COMPILED.Samples(None, file, rows, columns, known, together, 1 << 16)


@pytest.mark.parametrize("together", [1, 100, 1 << 18])
def test_samples_end_before_what_cannot_be(file: int, together: int) -> None:
    taken = samples(file, [1, 0, 1, 2, 2, 3, 0], COLUMNS, together, known := [])
    one = {"jpg": FILE[:100], "txt": FILE[600:605]}
    assert list(taken) == [("b", {}), ("a", one), ("b", {}), ("é", {}), ("é", {})]
    assert (taken.at, known, next(taken, None)) == (5, ["jpg", "txt"], None)
    for none in ([], [4], [-1], ["0"], [1 << 70]):
        assert not list(samples(file, none, COLUMNS, together, []))
    assert not list(samples(-1, [0], COLUMNS, together, []))
    assert not list(samples(file, [0], (*COLUMNS[:6], np.array([10, 9999, 0, 0, 0])), together, []))
    with pytest.raises((MemoryError, OverflowError)):
        list(samples(file, [0], (*COLUMNS[:6], np.array([2**63 - 1, 0, 0, 0, 0])), together, []))


@settings(max_examples=300)
@given(st.data(), st.lists(st.integers(-2, 5) | st.none(), max_size=9), st.sampled_from([1, 700, 1 << 18]))
def test_no_changed_number_leads_samples_out_of_what_is_there(
    file: int, data: st.DataObject, rows: list[Any], together: int
) -> None:
    columns: list[Any] = []
    numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 6000) | st.sampled_from([2**31 - 1, -(2**31), 2**32])
    for column in COLUMNS:
        changed = np.frombuffer(column, np.uint8) if isinstance(column, bytes) else column
        changed = changed.copy()
        for at in data.draw(st.lists(st.integers(0, len(changed) - 1), max_size=2)):
            changed[at] = np.array(data.draw(numbers)).astype(changed.dtype)
        cut = data.draw(st.just(0) | st.integers(0, changed.nbytes))
        columns.append(changed.tobytes()[: changed.nbytes - cut])
    try:
        found = list(samples(file, rows, tuple(columns), together, data.draw(st.lists(st.none() | TEXTS, max_size=3))))
    except (MemoryError, OverflowError):
        return
    for key, parts in found:
        assert key.encode() in bytes(columns[1])
        assert all(name.encode() in columns[4] and bytes(part) in FILE for name, part in parts.items())


def test_samples_keep_nothing(file: int) -> None:
    """Neither what they were given, once they are gone, nor what they gave or had begun to make."""
    handle, rows, known = object(), [0, 1, 2, 0, 3], ["txt"]
    given = (handle, rows, known, *COLUMNS)
    before, held = [sys.getrefcount(each) for each in given], 0
    for turn in range(300):
        taken = COMPILED.Samples(handle, file, rows, COLUMNS, known, 1 << (turn % 20), 1 << 16)
        assert len(list(itertools.islice(taken, turn % 6))) <= 4
        if turn == 100:
            tracemalloc.start()
        elif turn == 150:
            held = tracemalloc.get_traced_memory()[0]
    del taken
    assert tracemalloc.get_traced_memory()[0] < held + 2000
    tracemalloc.stop()
    assert [sys.getrefcount(each) for each in given] == before


def test_those_of_another_version_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("VERSION", calls.VERSION + 1), ("wanted", lambda: False)):
        with monkeypatch.context() as patch:
            patch.setattr(calls, name, value)
            calls.calls.cache_clear()
            assert calls.calls() is None
    calls.calls.cache_clear()
    assert calls.calls() is COMPILED
