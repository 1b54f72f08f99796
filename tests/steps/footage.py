"""Small videos for the tests of steps: scenes of real photographs, black, still and moving."""

from __future__ import annotations

import functools
import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from skimage import data

from mmdata.types import Media
from tests.decode.clips import _hum

HEIGHT, WIDTH = 96, 128
SCENES = {"cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}


def frames(scene: str, count: int, step: int) -> list[np.ndarray]:
    """A pan over a photograph, `step` pixels a frame; `black` is black."""
    if scene == "black":
        return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count
    whole = SCENES[scene]()
    lefts = [(40 + step * at) % (whole.shape[1] - WIDTH) for at in range(count)]
    return [np.ascontiguousarray(whole[60 : 60 + HEIGHT, left : left + WIDTH]) for left in lefts]


@functools.cache
def film(*scenes: tuple[str, int, int], rate: int = 20, format: str = "mp4", sound: bool = False) -> Media:
    """(scene, frames, pixels of motion a frame) one after the other."""
    out = io.BytesIO()
    with av.open(out, "w", format=format) as file:
        track: Any = file.add_stream("libx264", rate=rate)
        track.height, track.width, track.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        track.options = {"preset": "fast", "crf": "12"}
        voice: Any = file.add_stream("aac", rate=16_000, layout="mono") if sound else None
        pictures = [picture for scene in scenes for picture in frames(*scene)]
        for at, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, rate)
            file.mux(track.encode(frame))
        file.mux(track.encode())
        if voice is not None:
            file.mux([packet for frame in _hum(len(pictures) / rate) for packet in voice.encode(frame)])
            file.mux(voice.encode())
    return Media(kind="video", data=out.getvalue())
