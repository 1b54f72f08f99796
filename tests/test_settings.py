"""Settings as JSON: one digest for one value, and words for what differs."""

from __future__ import annotations

import subprocess
import sys

from mmdata.settings import difference, digest, shown


def test_a_digest_is_of_the_value_not_of_its_spelling() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_differences_name_their_place() -> None:
    assert list(difference({"a": {"b": [1, 2]}}, {"a": {"b": [1]}})) == ["a.b: [1, 2] -> [1]"]
    assert list(difference({"a": 1}, {"a": 1})) == []


def test_a_key_that_is_new_and_null_is_no_difference() -> None:
    """So what an older version began goes on under one that knows more keys, and the other way round."""
    assert list(difference({"heads": {"flow": None}}, {"heads": {"flow": None, "events": None}})) == []
    assert list(difference({"heads": {"flow": None}}, {"heads": {}})) == []
    assert list(difference({"limit": 3}, {"limit": None})) == ["limit: 3 -> null"]
    assert list(difference({}, {"limit": 3})) == ["limit: absent -> 3"]
    assert len(shown("x" * 200)) == 80


def test_indexing_tars_loads_no_specs_and_no_codecs() -> None:
    code = "import sys, mmdata.index; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "PIL", "simplejpeg", "yaml", "rich", "fsspec", "pyarrow.dataset", "pandas"} & set(loaded)
    assert not {"mmdata.spec", "mmdata.specfile", "mmdata.decode.work", "mmdata.report_page"} & set(loaded)
