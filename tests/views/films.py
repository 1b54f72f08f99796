"""Films with known cuts."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np


def shots(height: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Scenes of moving texture in changing colours, of many lengths, with a flash and a slow pan."""
    rng = np.random.default_rng(seed)
    for length in (21, 4, 30, 17, 2, 9, 20):
        texture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (width + 80, height), None)
        texture = (texture * rng.uniform(0.2, 1.0, 3)).astype(np.uint8)
        speed = int(rng.integers(0, 3))
        for at in range(length):
            frame = texture[:, at * speed % 80 : at * speed % 80 + width].copy()
            if length == 30 and at == 15:
                frame[:] = 255
            yield frame
