"""A thousand and more malformed pictures in a process of their own: named errors or pixels, no crash, no hang, and no
memory beyond the pixels that are allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from .corpus import ROOM

KNOWN = {
    "ok",
    "empty",
    "not_an_image",
    "html_not_image",
    "unsupported_format",
    "bad_header",
    "truncated_image",
    "corrupt_image",
    "decompression_bomb",
}
GROWTH = 100
"""MiB. Pixels of the largest picture allowed take 4; decoders work in floats and keep a few copies."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    program = [sys.executable, "-m", "tests.decode.corpus"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(("kind", "least"), [("cuts", 1200), ("flips", 790), ("swaps", 100), ("absurd", 110)])
def test_every_malformed_picture_is_named_or_decoded(found: dict[str, Any], kind: str, least: int) -> None:
    result = found[kind]
    assert result["odd"] == []
    assert set(result["reasons"]) <= KNOWN, "decoder_memory would mean that more was asked for than is allowed"
    assert sum(result["reasons"].values()) >= least
    assert result["grown"] < GROWTH < ROOM >> 20
    assert result["slowest"][0] < 10
    if kind == "cuts":
        assert "ok" not in result["reasons"]
