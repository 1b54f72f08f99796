"""Paths stay in their root, or are refused; URLs pass, but those of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.sources._paths import within

SEGMENTS = st.lists(st.sampled_from(["a", "..", ".", "", "b.jpg", "...", "c d"]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=SEGMENTS, absolute=st.booleans())
def test_whatever_the_path_it_is_inside_or_refused(tmp_path: Path, segments: list[str], absolute: bool) -> None:
    path = ("/" if absolute else "") + "/".join(segments)
    found, reason = None, ""
    try:
        found = within(str(tmp_path), path)
    except DataError as error:
        reason = error.reason
    if found is None:
        assert reason in ("path_escape", "bad_url")
        assert reason == "bad_url" or absolute or not (tmp_path / path).resolve().is_relative_to(tmp_path)
    else:
        assert Path(found).resolve() == (tmp_path / path).resolve()
        assert Path(found).resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize(
    "path", ["file:///etc/passwd", "LOCAL://x", "a\\b", "a\0b", "../x", "/etc/passwd", "/data-x/a"]
)
def test_what_leads_out_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="path_escape"):
        within("/data", path)


def test_absolute_paths_and_urls_of_the_root() -> None:
    assert within("file:///data", "/data/a.jpg") == "/data/a.jpg"
    assert within("s3://bucket/x/", "a/b.jpg") == "s3://bucket/x/a/b.jpg"
    assert within("/data", "http://example.org/x.jpg?a=../b") == "http://example.org/x.jpg?a=../b"
