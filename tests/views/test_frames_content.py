"""Frame rules by what a video holds, against brute force and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.rng import generator
from mmdata.types import Packets
from mmdata.views import frames


def rng(*what: int | str) -> np.random.Generator:
    return generator(0, *what)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_motion_takes_the_strongest_that_keep_their_distance(scores: list[int], n: int, spacing: float) -> None:
    total = len(scores)
    n = min(n, total)
    gaps = rng("gaps", total).choice([0.04, 0.1, 0.25, 0.5], size=total)
    times = np.cumsum(gaps).tolist()  # a variable rate
    chosen = frames.motion(total, n, scores=scores, times=times, spacing=spacing)
    left, expected = set(range(total)), []
    while left and len(expected) < n:
        best = min(left, key=lambda at: (-scores[at], at))
        expected.append(best)
        left = {at for at in left if at != best and abs(times[at] - times[best]) >= spacing - 1e-9}
    assert chosen == tuple(sorted(expected))


def test_motion_counts_a_spacing_that_floats_miss() -> None:
    times = [k / 30 for k in range(60)]
    chosen = frames.motion(60, 4, scores=[1.0] * 60, times=times, spacing=0.1)
    assert chosen == (0, 3, 6, 9)


def test_adaptive_goes_by_length() -> None:
    assert frames.sample("adaptive", total=5, num_frames=8, duration=1e9) == (0, 1, 2, 3, 4)
    assert frames.adaptive(100, 4, duration=60.0) == frames.uniform(100, 4)
    scores, times = [0.0] * 100, [float(at) for at in range(100)]
    scores[7] = scores[90] = 3.0
    assert frames.adaptive(100, 2, duration=100.0, scores=scores, times=times) == (7, 90)
    assert frames.adaptive(100, 2, duration=100.0, chosen=(3, 50, 97)) == (3, 50)
    with pytest.raises(DataError, match="motion"):
        frames.adaptive(100, 2, duration=100.0)


def test_codec_key_frames_come_in_the_order_of_showing() -> None:
    """Decode order I P B B I B: shown 0 2 3 1, then 5 (open group: its B before it), and one that is never shown."""
    packets = Packets(
        time_base=(1, 25),
        pts=np.array([0, 3, 1, 2, 5, 4, 9]),
        flags=np.array([1, 0, 2, 2, 1, 2, 1 | 4], np.uint8),
    )
    assert frames.sample("keyframe", packets=packets) == (0, 5)
    assert frames.sample("keyframe", total=6, packets=packets, num_frames=1) == (0,)
    assert frames.keyframe(90, 3, keys=range(0, 90, 10)) == (0, 30, 60)
    with pytest.raises(DataError, match="no_key_frames"):
        frames.keyframe(10, keys=())
    with pytest.raises(DataError, match="no_such_frame"):
        frames.keyframe(10, keys=(10,))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_scenes_share_the_frames(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 120))
    cuts = data.draw(st.lists(st.integers(1, max(1, total - 1)), max_size=12)) if total > 1 else []
    n = data.draw(st.integers(1, total))
    chosen = frames.scenes(total, n, cuts=cuts)
    spans = frames.spans(total, cuts)
    assert len(chosen) == n == len(set(chosen))
    assert list(chosen) == sorted(chosen)
    shares = [sum(start <= at < stop for at in chosen) for start, stop in spans]
    lengths = [stop - start for start, stop in spans]
    if n >= len(spans):
        assert min(shares) >= 1
    else:
        taken = sorted((length for length, share in zip(lengths, shares, strict=True) if share), reverse=True)
        assert taken == sorted(lengths, reverse=True)[:n]
    for (a, share_a), (b, share_b) in itertools.combinations(zip(lengths, shares, strict=True), 2):
        if a > b:
            assert share_a >= share_b - (1 if a - b < 2 else 0)


def test_scene_clips_do_not_cross_cuts() -> None:
    found = frames.scene_clips(100, cuts=(13, 40, 41), clip_len=8, stride=5, min_scene=2)
    assert found
    for clip in found:
        assert len({sum(at >= cut for cut in (13, 40, 41)) for at in clip}) == 1
    assert {at for clip in found for at in clip} == set(range(100)) - {40}
