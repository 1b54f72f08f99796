"""A build of thousands of records of every medium: bounded memory, and no trace of being killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mixed_build as benchmark

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="what processes use is read from /proc")
def test_a_large_mixed_build_is_bounded_and_resumes_without_a_trace(tmp_path: Path) -> None:
    """The benchmark ends with an error where a file differs or memory grows."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.mixed_build", "--folder", str(tmp_path / "media"), "--kills", "6"]
    done = subprocess.run([*command, "--json", str(figures)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(figures.read_bytes())
    few, all_ = told["figures"]
    assert (few["records"], all_["records"]) == (1250, 5000)
    assert len(told["killed"]["moments"]) == 6
    assert all_["busy_of_free"] > 0.6, "cores were idle while there was work"
    assert {"near_dup", "text_near_dup", "loudness", "static", "repetition", "truncated_image", "not_audio"} <= {
        reason for reasons in told["reasons"].values() for reason in reasons
    }


def test_what_counts_as_a_difference() -> None:
    assert benchmark.differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert benchmark.differences({"a": "1"}, {"a": "1"}) == []
