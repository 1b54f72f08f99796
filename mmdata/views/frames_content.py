"""Frame indices from what a video holds: its key frames, its scenes, its motion. They never look at a pixel.

Key frames come from the packet table, or like scene cuts and motion from a pass over the decoded video when the
dataset is built (`mmdata.views.scenes`, `mmdata.views.motion`); here they are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mmdata.decode import packets as tables
from mmdata.errors import DataError, SpecError
from mmdata.types import Packets
from mmdata.views.frames_even import clips, floors, require, segment_middle, uniform

TIE = 1e-9
"""Seconds: times are fractions in floating point, so a spacing counts as kept when it is missed by no more."""


def keyframe(
    total: int, num_frames: int | None = None, *, packets: Packets | None = None, keys: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Key frames in presentation order: the codec's (`packets`) or ones found in the content (`keys`).

    Of more than `num_frames`, evenly spread ones (`i * len // n`); where there are fewer, all of them.

    >>> keyframe(100, 2, keys=(0, 30, 60, 90)), keyframe(100, 9, keys=(0, 30))
    ((0, 60), (0, 30))
    """
    if (packets is None) == (keys is None):
        raise SpecError("frames keyframe: give packets (the codec's key frames) or keys (found in the content)")
    require(total, 1)
    found = tuple(tables.keyframes(packets).tolist()) if packets is not None else tuple(sorted(set(keys or ())))
    if not found:
        raise DataError("no_key_frames", f"a video of {total} frames without a key frame")
    if found[0] < 0 or found[-1] >= total:
        raise DataError("no_such_frame", f"key frames {found[0]}..{found[-1]} in a video of {total} frames")
    if num_frames is None or num_frames >= len(found):
        return found
    require(len(found), num_frames)
    return tuple(found[at] for at in floors(len(found), num_frames))


def motion(
    total: int, num_frames: int, *, scores: Sequence[float], times: Sequence[float], spacing: float = 0.5
) -> tuple[int, ...]:
    """The `num_frames` frames of most motion, no two shown within `spacing` seconds of each other.

    The strongest is taken first, of equals the earliest; `scores` and `times` (seconds at which each is shown) have one
    value per frame. Fewer frames come back where the spacing leaves no room for more.

    >>> motion(6, 2, scores=(0, 9, 8, 1, 7, 2), times=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    (1, 4)
    """
    require(total, num_frames)
    if len(scores) != total or len(times) != total:
        raise SpecError(f"frames motion: {len(scores)} scores and {len(times)} times for {total} frames")
    if spacing < 0:
        raise SpecError(f"frames motion: spacing is {spacing} s; give 0 or more")
    shown = np.asarray(times, dtype=np.float64)
    taken: list[int] = []
    for at in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist():
        if not taken or np.abs(shown[taken] - shown[at]).min() >= spacing - TIE:
            taken.append(at)
            if len(taken) == num_frames:
                break
    return tuple(sorted(taken))


def adaptive(
    total: int,
    num_frames: int,
    *,
    duration: float,
    long_seconds: float = 60.0,
    scores: Sequence[float] | None = None,
    times: Sequence[float] | None = None,
    spacing: float = 0.5,
    chosen: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """By length: all frames of a video that has no more than `num_frames`; `uniform` up to `long_seconds`; beyond,
    the frames of most motion: by `scores` and `times` as for `motion`, or `chosen` so before and thinned out evenly.

    >>> adaptive(3, 4, duration=0.1), adaptive(8, 4, duration=2.0)
    ((0, 1, 2), (0, 2, 4, 6))
    """
    require(total, 1)
    require(max(total, num_frames), num_frames)
    if total <= num_frames:
        return tuple(range(total))
    if duration <= long_seconds:
        return uniform(total, num_frames)
    if chosen is not None:
        return keyframe(total, num_frames, keys=chosen)
    if scores is None or times is None:
        raise DataError("no_facts", f"the motion of a video of {duration:.1f} s is not known")
    return motion(total, num_frames, scores=scores, times=times, spacing=spacing)


def spans(total: int, cuts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The scenes (start, stop) between the cuts; a cut is the first frame of a new scene.

    >>> spans(10, (4, 7)), spans(10, ())
    (((0, 4), (4, 7), (7, 10)), ((0, 10),))
    """
    require(total, 1)
    inner = sorted(set(cuts) - {0, total})
    if inner and not 0 < inner[0] <= inner[-1] < total:
        raise DataError("no_such_frame", f"cuts {inner[0]}..{inner[-1]} in a video of {total} frames")
    edges = [0, *inner, total]
    return tuple(pairwise(edges))


def scenes(total: int, num_frames: int, *, cuts: Sequence[int]) -> tuple[int, ...]:
    """`num_frames` frames shared out among the scenes: one for each, of more scenes than frames the longest; the rest
    by length (largest remainder, of equals the earlier scene); within a scene, the middles of equal segments.

    >>> scenes(100, 4, cuts=(10, 20)), scenes(100, 2, cuts=(10, 20))
    ((4, 14, 39, 79), (4, 59))
    """
    require(total, num_frames)
    found = spans(total, cuts)
    lengths = np.array([stop - start for start, stop in found])
    share = np.zeros(len(found), dtype=np.int64)
    share[np.argsort(-lengths, kind="stable")[:num_frames]] = 1
    rest = num_frames - int(share.sum())
    while rest:  # a scene takes no more frames than it has; what it cannot take is shared out again
        room = lengths - share
        exact = rest * room / room.sum()
        whole = np.minimum(exact.astype(np.int64), room)
        left = rest - int(whole.sum())
        order = np.argsort(whole - exact, kind="stable")
        extra = [at for at in order.tolist() if whole[at] < room[at]][:left]
        whole[extra] += 1
        share, rest = share + whole, rest - int(whole.sum())
    return tuple(
        start + at
        for (start, stop), count in zip(found, share.tolist(), strict=True)
        if count
        for at in segment_middle(stop - start, count)
    )


def scene_clips(
    total: int, *, cuts: Sequence[int], clip_len: int, stride: int, min_scene: int = 1
) -> tuple[tuple[int, ...], ...]:
    """Clips as `clips` cuts them, none across a scene cut; scenes of fewer than `min_scene` frames are left out.

    >>> scene_clips(9, cuts=(5,), clip_len=4, stride=4)
    ((0, 1, 2, 3), (1, 2, 3, 4), (5, 6, 7, 8))
    """
    return tuple(
        clip
        for start, stop in spans(total, cuts)
        if stop - start >= min_scene
        for clip in clips(total, clip_len=clip_len, stride=stride, span=(start, stop))
    )
