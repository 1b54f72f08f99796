"""Tones driven over full range, against the share that a sine spends there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mmdata.steps.clipping import clipped
from tests.steps.given import build, record
from tests.steps.recordings import audio, tone


def driven(gain: float) -> np.ndarray:
    return (gain * tone(1, 0, 200)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("gain", [1.2, 2.0, 8.0])
def test_the_share_of_a_sine(gain: float) -> None:
    expected = 1 - 2 * math.asin(1 / gain) / math.pi
    assert clipped(driven(gain)[None], 0.98) == pytest.approx(expected, abs=0.03)


def test_quiet_plateaus_and_single_peaks_are_none() -> None:
    assert clipped(0.5 * driven(2.0)[None], 0.98) == 0
    assert clipped(np.array([[0, 1, 0, 1, 1, 0]], np.float32), 0.98) == 0
    assert clipped(np.zeros((1, 0), np.float32), 0.98) == 0


def test_a_build(tmp_path: Path) -> None:
    records = [record(audio(driven(gain))) for gain in (0.9, 2.0)] + [record("none")]
    built = build(tmp_path, records, [{"kind": "clipping"}])
    assert built.reasons == ["", "clipping", ""]
    assert built.details[1].endswith("of the samples, more than 0.100%")
    assert built.column("clipping") == [0.0, None]
