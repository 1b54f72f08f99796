"""Frame indices as the video processors of single models compute them, by model name."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.views.frames_even import TooFewFrames, counted, floors, one_of, require


def qwen2_vl(
    total: int,
    num_frames: int | None = None,
    *,
    fps: float | None = None,
    video_fps: float | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    temporal: int = 2,
) -> tuple[int, ...]:
    """`floor(i * total / n)` for an n that `temporal` divides; all frames when neither a number nor a rate is given.

    n = round(num_frames / 2) * 2, or floor(clip(total / video_fps * fps, min_frames, max_frames) / 2) * 2. Raises
    TooFewFrames when n > total or n < `temporal`.
    (transformers: `Qwen2VLVideoProcessor.sample_frames`, whose float steps reach index `total` for some n; here the
    floor is exact.)

    >>> qwen2_vl(17, 14)[-2:], qwen2_vl(100, fps=2, video_fps=25)
    ((14, 15), (0, 12, 25, 37, 50, 62, 75, 87))
    """
    one_of(num_frames, fps)
    if num_frames is None and fps is None:
        return floors(total, total)
    return floors(total, _grouped(total, num_frames, fps, video_fps, min_frames, max_frames, temporal))


def qwen_vl_utils(
    total: int,
    num_frames: int | None = None,
    *,
    fps: float | None = None,
    video_fps: float | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    temporal: int = 2,
) -> tuple[int, ...]:
    """`round(linspace(0, total - 1, n))` in float32, n as for `qwen2_vl`; 2 frames a second unless told otherwise.

    (qwen-vl-utils: `smart_nframes`, `_read_video_torchcodec`.)

    >>> qwen_vl_utils(100, fps=2, video_fps=25)
    (0, 14, 28, 42, 57, 71, 85, 99)
    """
    import torch

    one_of(num_frames, fps)
    if num_frames is None and fps is None:
        fps = 2.0
    min_frames = math.ceil(min_frames / temporal) * temporal
    count = _grouped(total, num_frames, fps, video_fps, min_frames, max_frames, temporal)
    indices: list[int] = torch.linspace(0, total - 1, count).round().long().tolist()
    return tuple(indices)


def _grouped(
    total: int,
    num_frames: int | None,
    fps: float | None,
    video_fps: float | None,
    min_frames: int,
    max_frames: int,
    temporal: int,
) -> int:
    """The number of frames, a multiple of `temporal`, that Qwen's rules take."""
    if num_frames is not None:
        count = round(num_frames / temporal) * temporal
    else:
        most = math.floor(min(max_frames, total) / temporal) * temporal
        wanted = min(max(counted(total, fps, video_fps), min_frames), most, total)
        count = math.floor(wanted / temporal) * temporal
    if count < temporal:
        raise TooFewFrames(f"{total} frames, {num_frames or fps} wanted: no group of {temporal} frames")
    require(total, count)
    return count


def qwen3_vl(
    total: int,
    num_frames: int | None = None,
    *,
    fps: float | None = None,
    video_fps: float | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
) -> tuple[int, ...]:
    """`round(linspace(0, total - 1, n))`, half to even, n = clip(int(total / video_fps * fps), 4, min(768, total)).

    Two frames a second unless told otherwise. Frames repeat where num_frames > total.
    (transformers: `Qwen3VLVideoProcessor.sample_frames`; a video without a rate is not taken for one of 24 fps here.)

    >>> qwen3_vl(100, video_fps=25), qwen3_vl(3, video_fps=25)
    ((0, 14, 28, 42, 57, 71, 85, 99), (0, 1, 2))
    """
    one_of(num_frames, fps)
    require(total, 1)
    if num_frames is None:
        num_frames = int(counted(total, 2.0 if fps is None else fps, video_fps))
        num_frames = min(max(num_frames, min_frames), max_frames, total)
    require(max(total, num_frames), num_frames)
    return tuple(np.linspace(0, total - 1, num_frames).round().astype(np.int64).tolist())


def internvl(
    total: int,
    num_frames: int | None = None,
    *,
    fps: float | None = None,
    video_fps: float | None = None,
    initial_shift: bool | float = True,
) -> tuple[int, ...]:
    """`int(shift + i * total / n)`, below `total`; the shift is half a step (True), none (False), or so many frames.

    With `fps`, n = int(total / video_fps * fps). Raises TooFewFrames when n > total or n is 0.
    (transformers: `InternVLVideoProcessor.sample_frames`. It steps in float32, which where n * total exceeds 2^21
    is one off in places that depend on the vector width of the CPU; here the floor is exact.)

    >>> internvl(10, 4), internvl(10, 4, initial_shift=False)
    ((1, 3, 6, 8), (0, 2, 5, 7))
    """
    one_of(num_frames, fps)
    if num_frames is None:
        num_frames = int(counted(total, fps, video_fps))
        if num_frames < 1:
            raise TooFewFrames(f"{total} frames at {video_fps} a second give none at {fps} a second")
    require(total, num_frames)
    step = Fraction(total, num_frames)
    shift = step / 2 if initial_shift is True else Fraction(initial_shift)
    if shift < 0:
        raise SpecError(f"frames internvl: initial_shift {initial_shift} lies before the video")
    if shift >= total:
        raise TooFewFrames(f"frames from {initial_shift} on are asked for and the video has {total}")
    # (shift + i * step) over the one denominator, so that the loop is in plain integers.
    bottom = shift.denominator * num_frames
    offset, stride = shift.numerator * num_frames, total * shift.denominator
    return tuple(at // bottom for at in range(offset, total * bottom, stride))


def smolvlm(
    total: int,
    num_frames: int = 64,
    *,
    fps: float = 1.0,
    video_fps: float | None,
    duration: float | None = None,
    skip_seconds: float = 1.0,
) -> tuple[int, ...]:
    """At most `num_frames` different frames at about `fps` a second: `unique(int(linspace(first, last, n)))`.

    n = clip(round(fps * duration), 1, num_frames). One second is left out at both ends when the video is longer than
    num_frames * fps seconds besides. `duration` is in seconds, total / video_fps unless given.
    (transformers: `SmolVLMVideoProcessor.sample_frames`.)

    >>> smolvlm(250, 4, video_fps=25.0)
    (25, 91, 158, 225)
    """
    if not video_fps or video_fps <= 0:
        raise DataError("no_facts", f"the rate of the video is {video_fps}; smolvlm's rule needs it")
    require(total, 1)
    require(max(total, num_frames), num_frames)
    duration = total / video_fps if duration is None else duration
    count = max(1, min(round(fps * duration), num_frames))
    first, last = 0, total - 1
    if skip_seconds > 0 and duration - 2 * skip_seconds > num_frames * fps:
        first, last = int(skip_seconds * video_fps), int(total - skip_seconds * video_fps)
    first, last = max(0, first), min(last, total - 1)
    if first >= last:
        first, last = 0, total - 1
    return tuple(np.unique(np.linspace(first, last, count, dtype=np.int64)).tolist())
