"""Frame rules that have no installed reference, against their formulas written out, brute force and properties."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError, SpecError
from mmdata.rng import generator
from mmdata.types import Packets
from mmdata.views import frames

totals = st.integers(1, 400)
counts = st.integers(1, 64)


def rng(*what: int | str) -> np.random.Generator:
    return generator(0, *what)


def internvl_middle(num_frames: int, vlen: int) -> list[int]:
    """`get_frame_indices(sample="middle")` as InternVL and Bagel describe it: interval by interval."""
    samples = min(num_frames, vlen)
    edges = [int(edge) for edge in np.linspace(start=0, stop=vlen, num=samples + 1)]
    chosen = []
    for start, following in itertools.pairwise(edges):
        chosen.append((start + (following - 1)) // 2)
    while len(chosen) < num_frames:
        chosen.append(chosen[-1])
    return chosen


@settings(max_examples=400, deadline=None)
@given(totals, counts)
def test_segments_ticks_and_steps(total: int, n: int) -> None:
    assert list(frames.segment_middle(total, n)) == internvl_middle(n, total)
    tick = total / n
    assert frames.sample("tsn", total=total, num_frames=n) == tuple(int(tick / 2 + tick * i) for i in range(n))
    if n > 1:
        step = float(total - 1) / (n - 1)
        assert frames.linspace(total, n) == tuple(np.round(np.arange(n) * step).astype(int))
        assert frames.linspace(total, n)[0] == 0
        assert frames.linspace(total, n)[-1] == total - 1
    assert frames.sparse(total, n) == frames.segment_middle(total, n)


def test_the_tick_of_tsn_is_real_valued() -> None:
    """`segment_len = T // n` would cut off the tail: 99 frames in 50 segments would end at frame 49."""
    assert frames.tsn(99, 50)[-1] == 98
    assert frames.tsn(3, 7) == (0, 0, 1, 1, 1, 2, 2)


@settings(max_examples=200, deadline=None)
@given(totals, counts, st.integers(0, 9))
def test_training_draws_stay_in_their_segments(total: int, n: int, key: int) -> None:
    drawn = frames.tsn(total, n, mode="train", rng=rng(key))
    assert drawn == frames.tsn(total, n, mode="random", rng=rng(key))
    assert len(drawn) == n
    width = total // n
    if width:
        assert all(i * width <= index < (i + 1) * width for i, index in enumerate(drawn))
    else:
        assert list(drawn) == sorted(drawn)
        assert all(0 <= index < total for index in drawn)


def test_training_reaches_every_frame_and_the_global_generators_do_not_matter() -> None:
    seen: set[int] = set()
    for key in range(300):
        random.seed(0)
        np.random.seed(0)
        seen.update(frames.sample("tsn", total=12, num_frames=3, mode="train", rng=rng("all", key)))
    assert seen == set(range(12))
    starts = {frames.dense(20, 4, stride=3, rng=rng("dense", key))[0] for key in range(300)}
    assert starts == set(range(11))
    for rule in ("tsn", "sparse", "dense"):
        drawn = [
            frames.RULES[rule](40, 4, rng=rng("one", key))
            if rule != "tsn"
            else frames.tsn(40, 4, mode="train", rng=rng("one", key))
            for key in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(SpecError, match="needs rng"):
        frames.tsn(10, 2, mode="train")


@given(totals, st.integers(1, 12), st.integers(1, 5))
def test_dense_segments_hold_each_segments_ends(total: int, n: int, per: int) -> None:
    chosen = frames.tsn(total, n, mode="dense", per_segment=per)
    assert len(chosen) == n * per
    for i in range(n):
        segment = chosen[i * per : (i + 1) * per]
        start, stop = i * total // n, max(i * total // n + 1, (i + 1) * total // n)
        assert segment[0] == start
        assert segment[-1] == (stop - 1 if per > 1 else start)
        assert list(segment) == sorted(segment)


@given(totals, counts, st.integers(1, 9))
def test_a_dense_window_is_consecutive_in_the_middle_and_repeats_the_last_frame(
    total: int, n: int, stride: int
) -> None:
    chosen = frames.dense(total, n, stride=stride)
    reach = (n - 1) * stride + 1
    assert len(chosen) == n
    if reach <= total:
        assert all(later - earlier == stride for earlier, later in itertools.pairwise(chosen))
        assert 0 <= (total - 1 - chosen[-1]) - chosen[0] <= 1
    else:
        assert chosen == tuple(min(i * stride, total - 1) for i in range(n))


@given(totals, st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))
def test_clips_have_one_length_and_cover_the_video(total: int, clip_len: int, stride: int, frame_stride: int) -> None:
    found = frames.clips(total, clip_len=clip_len, stride=stride, frame_stride=frame_stride)
    assert {len(clip) for clip in found} == {clip_len}
    assert all(0 <= index < total for clip in found for index in clip)
    assert found[-1][-1] == total - 1
    starts = [clip[0] for clip in found]
    assert starts == sorted(set(starts))
    assert all(at == i * stride for i, at in enumerate(starts[:-1]))
    if stride <= clip_len and frame_stride == 1:
        assert {index for clip in found for index in clip} == set(range(total))
    flat = frames.sample("hierarchical", total=total, clip_len=clip_len, stride=stride, frame_stride=frame_stride)
    assert flat == tuple(itertools.chain(*found))
    two = frames.hierarchical(total, clip_len=clip_len, stride=stride, frame_stride=frame_stride, num_clips=2)
    assert len(two) == clip_len * min(2, len(found))


@given(totals, counts, st.integers(0, 5))
def test_jitter_moves_by_no_more_than_its_radius_within_the_video(total: int, n: int, radius: int) -> None:
    indices = frames.linspace(total, n)
    moved = frames.jitter(indices, total, rng=rng("jitter", n), radius=radius)
    assert (
        moved == frames.sample("linspace", total=total, num_frames=n, jittered=radius, rng=rng("jitter", n))
        or not radius
    )
    assert list(moved) == sorted(moved)
    # Sorting two lists that differ by at most r in places leaves them so.
    assert all(abs(a - b) <= radius for a, b in zip(indices, moved, strict=True))
    assert all(0 <= index < total for index in moved)


def test_jitter_draws_all_of_its_range_evenly() -> None:
    moves = [frames.jitter((50,), 100, rng=rng("even", key))[0] - 50 for key in range(3500)]
    values, number = np.unique(moves, return_counts=True)
    assert values.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert number.min() > 400


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
