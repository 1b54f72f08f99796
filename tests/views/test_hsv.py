"""Colours and reduction against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from mmdata.views import hsv


def test_hsv_is_opencvs_for_every_colour() -> None:
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    for red in range(256):
        rgb = np.stack([np.full_like(green, red), green, blue], axis=-1)
        theirs = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        assert np.array_equal(np.moveaxis(hsv.hsv(rgb), 0, -1), theirs), red


def test_reduction_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    sizes = [(360, 640), (512, 512), (300, 512), (271, 300), (256, 256), (255, 200), (1, 700), (700, 1), (1080, 1920)]
    sizes += [tuple(rng.integers(1, 900, 2).tolist()) for _ in range(40)]
    for height, width in sizes:
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        factor = max(height, width) / 256
        if factor < 1:
            assert hsv.reduce(frame) is frame
            continue
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        assert np.array_equal(hsv.reduce(frame), cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)), size
