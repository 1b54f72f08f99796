"""Frame rules by counts alone, against their formulas written out and by their properties."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import SpecError
from mmdata.rng import generator
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
