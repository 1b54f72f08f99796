"""The door to all frame rules: names, parameters, and what it refuses."""

from __future__ import annotations

import math

import pytest

from mmdata.errors import DataError, SpecError
from mmdata.views import frames


def test_wrong_parameters_are_named() -> None:
    for call, message in [
        (lambda: frames.sample("unifrom", total=3, num_frames=1), "no rule 'unifrom'"),
        (lambda: frames.sample("uniform", total=3, frames=1), "no parameter frames"),
        (lambda: frames.sample("uniform", num_frames=1), "give total"),
        (lambda: frames.sample("uniform", total=3, num_frames=1, fps=2.0), "not both"),
        (lambda: frames.sample("uniform", total=3, num_frames=0), "at least 1"),
        (lambda: frames.sample("scenes", total=3, num_frames=1), "cuts must be given"),
        (lambda: frames.sample("fps", total=3, rule="tsn", fps=1.0), "no rule 'tsn'"),
        (lambda: frames.sample("linspace", total=3, num_frames=1, jittered=2), "needs rng"),
        (lambda: frames.clips(3, clip_len=0, stride=1), "clip_len 0"),
    ]:
        with pytest.raises(SpecError, match=message):
            call()
    for rate in (None, 0.0):
        with pytest.raises(DataError, match="no_facts"):
            frames.sample("fps", total=3, fps=1.0, video_fps=rate)


def test_fps_of_a_short_clip_gives_one_frame() -> None:
    assert frames.sample("fps", total=3, fps=0.5, video_fps=25.0) == (0,)
    assert math.isclose(len(frames.sample("fps", total=300, fps=2, video_fps=25.0)), 24)
