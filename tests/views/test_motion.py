"""Change between frames against known motion and known colours."""

from __future__ import annotations

import numpy as np
import pytest

from mmdata.errors import SpecError
from mmdata.views import motion
from tests.views.films import shots


def texture(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(5).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.kron(rough, np.ones((4, 4, 1), np.uint8))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (0, 3), (2, 0), (-4, 3), (6, -6)])
def test_flow_is_the_motion_in_pixels(dy: int, dx: int) -> None:
    still = texture(120, 160)
    first, second = motion.changes([still, np.roll(still, (dy, dx), (0, 1))])
    assert first == motion.Change(0.0, 0.0)
    assert second.flow == pytest.approx(np.hypot(dy, dx), abs=0.6)  # blocks at the border lose what comes in
    assert second.histogram < 0.01
    large = np.kron(still, np.ones((4, 4, 1), np.uint8))
    _, scaled = motion.changes([large, np.roll(large, (4 * dy, 4 * dx), (0, 1))])
    assert scaled.flow == pytest.approx(4 * np.hypot(dy, dx), abs=2.4)


def test_noise_stands_still_and_the_histogram_term_lies_in_0_to_1_at_every_size() -> None:
    rng = np.random.default_rng(6)
    noisy = [np.clip(128 + rng.normal(0, 2, (96, 128, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    assert all(change.flow < 0.2 for change in motion.changes(noisy))
    values = []
    for scale in (1, 2, 5):
        red = np.zeros((40 * scale, 64 * scale, 3), np.uint8)
        half = red.copy()
        half[:, : 32 * scale] = 200
        values.append(list(motion.changes([red, half]))[1].histogram)
    assert values == pytest.approx([values[0]] * 3)
    # p = (1, 0), q = (1/2, 1/2): 0.5 * (0.25 / 1.5 + 0.25 / 0.5)
    assert values[0] == pytest.approx(0.5 * (0.25 / 1.5 + 0.5))


def test_key_frames_are_where_the_content_changes() -> None:
    found = motion.key_frames(shots(96, 128, seed=7), threshold=0.25)
    assert found == (0, 21, 25, 40, 41, 55, 72, 74, 83)  # the flash at 40 changes the content twice
    with pytest.raises(SpecError):
        motion.key_frames([], histogram_weight=2)
    assert motion.key_frames([]) == ()
    assert motion.key_frames([np.zeros((1, 1, 3), np.uint8)] * 3) == (0,)
