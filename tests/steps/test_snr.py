"""Speech-like bursts in noise whose level is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmdata.steps.snr import snr
from tests.steps.given import build, record
from tests.steps.recordings import RATE, audio, bursts

SPANS = [(0.3, 1.0), (1.3, 2.2), (2.5, 2.8)]


@pytest.mark.parametrize("truth", [6.0, 12.0, 20.0, 40.0])
def test_known_noise(truth: float) -> None:
    wave = bursts(SPANS, 3.2, noise=0.2 * 10 ** (-truth / 20), level=0.2)
    assert snr(wave, RATE) == pytest.approx(truth, abs=2.0)


def test_bounds_of_the_estimate() -> None:
    assert snr(np.zeros(RATE, np.float32), RATE) is None
    assert snr(np.ones(100, np.float32), RATE) is None
    assert snr(bursts(SPANS, 3.2, noise=0.0), RATE) > 60  # type: ignore[operator]
    assert snr(bursts([], 2.0, noise=0.1), RATE) <= 0  # type: ignore[operator]


def test_a_build(tmp_path: Path) -> None:
    records = [record(audio(bursts(SPANS, 3.2, noise=noise))) for noise in (0.001, 0.1)] + [record("none")]
    built = build(tmp_path, records, [{"kind": "snr", "min": 20}])
    assert built.reasons == ["", "snr", ""]
    assert built.details[1].endswith("dB, below 20")
    assert built.column("snr")[0] > 40
