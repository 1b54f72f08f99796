"""Frame indices from counts alone: evenly spread, by segment, in one dense window, in clips, jittered.

Every rule answers 0-based indices in presentation order. Rules that draw take a generator that belongs to one sample of
one epoch (`mmdata.rng.generator(seed, epoch, key, "frames")`), so that the same key gives the same frames, whenever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mmdata.errors import DataError, SpecError


class TooFewFrames(DataError, ValueError):
    """More frames are asked for than the video has. (A ValueError too, because that is what the references raise.)"""

    def __init__(self, detail: str) -> None:
        super().__init__("too_few_frames", detail)


def require(total: int, num_frames: int) -> None:
    """Refuse an empty video, fewer than one frame, and more frames than there are."""
    if total < 1:
        raise TooFewFrames(f"a video of {total} frames has nothing to sample")
    if num_frames < 1:
        raise SpecError(f"frames: num_frames is {num_frames}; ask for at least 1")
    if num_frames > total:
        raise TooFewFrames(f"{num_frames} frames are asked for and the video has {total}; ask for fewer")


def one_of(num_frames: int | None, fps: float | None) -> None:
    """Refuse a rule that is told both how many frames and at which rate."""
    if num_frames is not None and fps is not None:
        raise SpecError("frames: give num_frames or fps, not both")


def counted(total: int, fps: float | None, video_fps: float | None) -> float:
    """How many frames `fps` of them a second are, as a real number: total / video_fps * fps, in this order."""
    if not fps or fps <= 0:
        raise SpecError(f"frames: fps is {fps}; ask for more than 0")
    if not video_fps or video_fps <= 0:
        raise DataError("no_facts", f"the rate of the video is {video_fps}; sampling by fps needs it")
    return total / video_fps * fps


def uniform(
    total: int, num_frames: int | None = None, *, fps: float | None = None, video_fps: float | None = None
) -> tuple[int, ...]:
    """`i * total // n`; all frames when neither a number nor a rate is given.

    With `fps`, n = max(1, int(total / video_fps * fps)). Raises TooFewFrames when n > total.
    (transformers: `video_utils.default_sample_indices_fn`.)

    >>> uniform(10, 4), uniform(10, fps=2, video_fps=5)
    ((0, 2, 5, 7), (0, 2, 5, 7))
    """
    one_of(num_frames, fps)
    if num_frames is None:
        num_frames = total if fps is None else max(1, int(counted(total, fps, video_fps)))
    require(total, num_frames)
    return floors(total, num_frames)


def floors(total: int, num_frames: int) -> tuple[int, ...]:
    """floor(i * total / n) in integers: no rounding error can reach `total`."""
    return tuple((np.arange(num_frames, dtype=np.int64) * total // num_frames).tolist())


def linspace(total: int, num_frames: int) -> tuple[int, ...]:
    """From the first frame to the last: `round(i * (total - 1) / (n - 1))`, half to even; one frame is the middle one.

    Frames repeat where n > total. (mmaction2: `SampleFrames`, test mode.)

    >>> linspace(10, 4), linspace(10, 1)
    ((0, 3, 6, 9), (4,))
    """
    require(total, 1)
    require(max(total, num_frames), num_frames)
    if num_frames == 1:
        return ((total - 1) // 2,)
    # numpy's float64 steps, as in the reference: an exact quotient would round some halves the other way.
    step = (total - 1) / (num_frames - 1)
    return tuple(np.round(np.arange(num_frames) * step).astype(np.int64).tolist())


def segment_middle(total: int, num_frames: int) -> tuple[int, ...]:
    """The middle of each of n segments: edges `int(linspace(0, total, n + 1))`, index (e_i + e_{i+1} - 1) // 2; the
    last index repeats where n > total. (InternVL and Bagel: `get_frame_indices(sample="middle")`.)

    >>> segment_middle(10, 3), segment_middle(2, 4)
    ((1, 4, 7), (0, 1, 1, 1))
    """
    require(total, 1)
    require(max(total, num_frames), num_frames)
    edges = np.linspace(0, total, min(num_frames, total) + 1).astype(np.int64)
    middles = ((edges[:-1] + edges[1:] - 1) // 2).tolist()
    return tuple(middles + middles[-1:] * (num_frames - len(middles)))


def tsn(
    total: int,
    num_frames: int,
    *,
    mode: Literal["test", "train", "uniform", "random", "dense"] = "test",
    rng: np.random.Generator | None = None,
    per_segment: int = 3,
) -> tuple[int, ...]:
    """One frame from each of n equal segments, as temporal segment networks take them (Wang et al. 2016).

    - `test` or `uniform`: the middles, with a real-valued tick = total / n: `int(tick / 2 + tick * i)`. No tail is
      cut off, and frames repeat where n > total.
    - `train` or `random` (needs `rng`): a = total // n and `i * a + U{0..a-1}`; where n > total, n sorted draws.
    - `dense`: `per_segment` frames from the first to the last of each segment, n * per_segment in all.

    (yjxiong/tsn-pytorch: `dataset.py`. Its answer for n > total in training, frame 0 n times, is not taken over.)

    >>> tsn(10, 4), tsn(5, 2, mode="dense")
    ((1, 3, 6, 8), (0, 0, 1, 2, 3, 4))
    """
    require(total, 1)
    require(max(total, num_frames), num_frames)
    tick = total / num_frames
    if mode in ("test", "uniform"):
        return tuple(int(tick / 2 + tick * i) for i in range(num_frames))
    if mode == "dense":
        edges = [(i * total // num_frames, (i + 1) * total // num_frames) for i in range(num_frames)]
        inner = (np.linspace(start, max(start, stop - 1), per_segment) for start, stop in edges)
        return tuple(int(index) for segment in inner for index in segment)
    if mode not in ("train", "random"):
        raise SpecError(f"frames tsn: no mode {mode!r}; modes are test, train, uniform, random, dense")
    if rng is None:
        raise SpecError("frames tsn: mode train needs rng, such as mmdata.rng.generator(seed, epoch, key)")
    width = total // num_frames
    if width:
        return tuple((np.arange(num_frames) * width + rng.integers(width, size=num_frames)).tolist())
    return tuple(np.sort(rng.integers(total, size=num_frames)).tolist())


def sparse(total: int, num_frames: int, *, rng: np.random.Generator | None = None) -> tuple[int, ...]:
    """A few frames across the whole video: the middle of each of n segments, or with `rng` a draw from each.

    >>> sparse(100, 4)
    (12, 37, 62, 87)
    """
    return tsn(total, num_frames, mode="train", rng=rng) if rng is not None else segment_middle(total, num_frames)


def dense(
    total: int, num_frames: int, *, stride: int = 1, start: int | None = None, rng: np.random.Generator | None = None
) -> tuple[int, ...]:
    """n frames, each `stride` after the one before: from `start`, or with `rng` from a drawn start, or in the middle.

    A window that reaches past the end repeats the last frame. (mmaction2: `SampleFrames(clip_len, frame_interval,
    out_of_bound_opt="repeat_last")`.)

    >>> dense(10, 4), dense(10, 3, stride=2, start=7), dense(2, 4)
    ((3, 4, 5, 6), (7, 9, 9), (0, 1, 1, 1))
    """
    require(total, 1)
    require(max(total, num_frames), num_frames)
    if stride < 1 or (start is not None and start < 0):
        raise SpecError(f"frames dense: stride {stride} and start {start}; give 1 or more, and 0 or more")
    if start is not None and start >= total:
        raise TooFewFrames(f"frames from {start} on are asked for and the video has {total}")
    room = max(0, total - ((num_frames - 1) * stride + 1))
    if start is None:
        start = room // 2 if rng is None else int(rng.integers(room + 1))
    return tuple(min(start + i * stride, total - 1) for i in range(num_frames))


def clips(
    total: int, *, clip_len: int, stride: int, frame_stride: int = 1, span: tuple[int, int] | None = None
) -> tuple[tuple[int, ...], ...]:
    """The lower level of a hierarchy: clips of `clip_len` frames, `frame_stride` apart, one every `stride` frames.

    Clips cover the whole `span` (start, stop; default: the video): where the last regular clip ends before the last
    frame, one more clip ends there. A span shorter than a clip gives one clip that repeats its last frame.

    >>> clips(10, clip_len=4, stride=3)
    ((0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9))
    >>> clips(9, clip_len=4, stride=4), clips(2, clip_len=3, stride=1)
    (((0, 1, 2, 3), (4, 5, 6, 7), (5, 6, 7, 8)), ((0, 1, 1),))
    """
    require(total, 1)
    first, stop = span or (0, total)
    if clip_len < 1 or stride < 1 or frame_stride < 1 or not 0 <= first < stop <= total:
        raise SpecError(
            f"frames clips: clip_len {clip_len}, stride {stride}, frame_stride {frame_stride} and span {first}..{stop} "
            f"do not cut a video of {total} frames"
        )
    last = stop - ((clip_len - 1) * frame_stride + 1)
    starts = list(range(first, last + 1, stride)) or [first]
    if starts[-1] < last:
        starts.append(last)
    return tuple(tuple(min(start + i * frame_stride, stop - 1) for i in range(clip_len)) for start in starts)


def hierarchical(
    total: int, *, clip_len: int, stride: int, frame_stride: int = 1, num_clips: int | None = None
) -> tuple[int, ...]:
    """All frames of `clips`, clip after clip; of more than `num_clips` clips, evenly spread ones (`segment_middle`).

    >>> hierarchical(9, clip_len=3, stride=3, num_clips=2)
    (0, 1, 2, 3, 4, 5)
    """
    found = clips(total, clip_len=clip_len, stride=stride, frame_stride=frame_stride)
    if num_clips is not None and num_clips < len(found):
        found = tuple(found[at] for at in segment_middle(len(found), num_clips))
    return tuple(index for clip in found for index in clip)


def jitter(indices: Sequence[int], total: int, *, rng: np.random.Generator, radius: int = 3) -> tuple[int, ...]:
    """Each index moved by a draw from U{-radius..radius}, kept within the video, sorted.

    >>> from mmdata.rng import generator
    >>> jitter((0, 50, 99), 100, rng=generator(0, 1, "key"))
    (0, 48, 99)
    """
    if radius < 0:
        raise SpecError(f"frames jitter: radius is {radius}; give 0 or more frames")
    moved = np.asarray(indices, dtype=np.int64)
    moved = moved + rng.integers(-radius, radius + 1, size=len(moved))
    return tuple(np.sort(np.clip(moved, 0, total - 1)).tolist())
