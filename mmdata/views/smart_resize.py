"""Sizes near an image's own: Qwen-VL's smart_resize, its video budgets, and the older rule of multiples of 14."""

from __future__ import annotations

import math
from typing import Literal

from mmdata.errors import DataError, SpecError

MAX_ASPECT = 200
"""Qwen-VL refuses an image that is more than this many times as long as it is wide; exactly this much passes."""
MIN_FLOOR = 1.05
"""A capped video frame may always have this many times the least pixels."""

ImageRule = Literal["transformers", "qwen_vl_utils"]
VideoRule = Literal["qwen2_vl", "qwen3_vl"]


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 56 * 56,
    max_pixels: int = 14 * 14 * 4 * 16384,
    *,
    variant: ImageRule = "transformers",
) -> tuple[int, int]:
    """Height and width, multiples of `factor`, of about the same shape and between `min_pixels` and `max_pixels`.

    Sides are rounded half to even, and floored or ceiled only to meet a limit (transformers,
    `models/qwen2_vl/image_processing_qwen2_vl.py`). A side below half a factor rounds to zero there, so that the
    area is brought up to the least; `variant="qwen_vl_utils"` rounds it up to one factor first
    (`qwen_vl_utils/vision_process.py`). The default limits are the published ones of Qwen2-VL.
    Raises DataError("aspect_extreme") beyond 200 to 1.

    >>> smart_resize(480, 640), smart_resize(42, 70)     # 42 / 28 = 1.5 -> 2, 70 / 28 = 2.5 -> 2
    ((476, 644), (56, 56))
    >>> smart_resize(125, 9), smart_resize(125, 9, variant="qwen_vl_utils")
    ((224, 28), (112, 28))
    """
    _check_limits(factor, min_pixels, max_pixels)
    _check_aspect(height, width)
    rows, columns = round(height / factor), round(width / factor)
    if variant == "qwen_vl_utils":
        rows, columns = max(1, rows), max(1, columns)
    elif variant != "transformers":
        raise SpecError(f"smart_resize: variant {variant!r} is neither 'transformers' nor 'qwen_vl_utils'")
    return _within(height, width, rows * factor, columns * factor, 1, 1, factor, min_pixels, max_pixels)


def video_size(
    frames: int,
    height: int,
    width: int,
    *,
    variant: VideoRule = "qwen2_vl",
    factor: int | None = None,
    temporal: int = 2,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    cap_pixels_per_frame: bool = False,
    max_video_tokens: int | None = None,
) -> tuple[int, int]:
    """Height and width of each of `frames` sampled frames.

    - `qwen2_vl` (also 2.5): limits per frame, 128 to 768 tokens of 28 x 28 pixels. With `cap_pixels_per_frame` a frame
      may also have no more than its share of 90 % of `max_video_tokens` (128,000).
    - `qwen3_vl`: limits on frames x height x width together, 4,096 to 25,165,824 pixels; a side below the factor (32)
      is scaled up first. With the cap a frame may have `max_video_tokens` (768) at most, and its share of the limit.

    The cap is what qwen-vl-utils does; transformers leaves it off by default (`models/qwen2_vl` and
    `models/qwen3_vl/video_processing_*.py`). Defaults are the published ones. Raises DataError("aspect_extreme")
    beyond 200 to 1 and, for `qwen3_vl`, DataError("too_few_frames") below `temporal` frames.

    >>> video_size(32, 1080, 1920), video_size(32, 1080, 1920, variant="qwen3_vl")
    ((560, 1008), (640, 1152))
    """
    if frames < 1:
        raise DataError("too_few_frames", f"{frames} frames")
    if variant == "qwen2_vl":
        factor = 28 if factor is None else factor
        low = 128 * factor**2 if min_pixels is None else min_pixels
        high = 768 * factor**2 if max_pixels is None else max_pixels
        if cap_pixels_per_frame:
            total = int((128_000 if max_video_tokens is None else max_video_tokens) * factor * factor * 0.9)
            high = max(min(high, total * temporal // frames), int(low * MIN_FLOOR))
        return smart_resize(height, width, factor, low, high)
    if variant != "qwen3_vl":
        raise SpecError(f"video_size: variant {variant!r} is neither 'qwen2_vl' nor 'qwen3_vl'")
    factor = 32 if factor is None else factor
    low = 4096 if min_pixels is None else min_pixels
    high = 25_165_824 if max_pixels is None else max_pixels
    if cap_pixels_per_frame:
        frame = (768 if max_video_tokens is None else max_video_tokens) * factor * factor
        high = max(min(frame, high // frames), int(low * MIN_FLOOR)) * frames
    return _volume(frames, height, width, factor, temporal, low, high)


def _volume(frames: int, height: int, width: int, factor: int, temporal: int, low: int, high: int) -> tuple[int, int]:
    """Qwen3-VL's rule: the limits hold for the pixels of all frames together."""
    _check_limits(factor, low, high)
    if frames < temporal:
        raise DataError("too_few_frames", f"{frames} frames; a patch spans {temporal}")
    if height < 1 or width < 1:
        raise DataError("aspect_extreme", f"{height} x {width} pixels")
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_aspect(height, width)
    rows, columns = round(height / factor), round(width / factor)
    filled = round(frames / temporal) * temporal
    return _within(height, width, rows * factor, columns * factor, filled, frames, factor, low, high)


def _within(
    height: int, width: int, near_h: int, near_w: int, filled: int, frames: int, factor: int, low: int, high: int
) -> tuple[int, int]:
    """The rounded size, or the nearest of the same shape within the limits on `frames` pictures of it."""
    if filled * near_h * near_w > high:
        shrink = math.sqrt(frames * height * width / high)
        return (
            max(factor, math.floor(height / shrink / factor) * factor),
            max(factor, math.floor(width / shrink / factor) * factor),
        )
    if filled * near_h * near_w < low:
        grow = math.sqrt(low / (frames * height * width))
        return math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return near_h, near_w


def dynamic_resolution(
    height: int, width: int, patch: int = 14, min_pixels: int = 224 * 224, max_pixels: int = 1024 * 1024
) -> tuple[int, int]:
    """Height and width floored to multiples of `patch` after scaling the area between the limits.

    A rule that tutorials give for Qwen-VL. It is not Qwen2-VL's, which rounds to 28 and floors at a limit only; and
    flooring can bring an image below the least again. A side of no whole patch becomes one patch.

    >>> dynamic_resolution(480, 640), dynamic_resolution(1080, 1920), dynamic_resolution(100, 100)
    ((476, 630), (756, 1358), (210, 210))
    """
    _check_limits(patch, min_pixels, max_pixels)
    _check_positive(height, width)
    pixels, scale = height * width, 1.0
    if pixels > max_pixels:
        scale = math.sqrt(max_pixels / pixels)
    elif pixels < min_pixels:
        scale = math.sqrt(min_pixels / pixels)
    return max(patch, int(height * scale) // patch * patch), max(patch, int(width * scale) // patch * patch)


def patch_times(times: tuple[float, ...] | list[float], temporal: int = 2) -> tuple[float, ...]:
    """Seconds of each temporal patch: the mean of the times of its first and last frame (Qwen3-VL writes them as
    `<%.1f seconds>` before each patch). The last frame is repeated to fill the last patch.

    >>> patch_times([0.0, 0.5, 1.0])
    (0.25, 1.0)
    """
    if temporal < 1:
        raise SpecError(f"patch_times: a temporal patch spans {temporal} frames")
    last = len(times) - 1
    return tuple((times[i] + times[min(i + temporal - 1, last)]) / 2 for i in range(0, len(times), temporal))


def second_per_grid(frames: int, total: int, fps: float, temporal: int = 2) -> float:
    """Seconds between temporal patches when `frames` of `total` frames at `fps` were sampled (Qwen2.5-VL's
    `second_per_grid_ts`: the patch's frames over the sampled rate).

    >>> second_per_grid(8, 120, 30.0)
    1.0
    """
    if frames < 1 or total < 1 or not fps > 0:
        raise DataError("no_facts", f"{frames} of {total} frames at {fps} per second")
    return temporal / (frames / total * fps)


def _check_limits(factor: int, low: int, high: int) -> None:
    if factor < 1 or low < 1 or high < low:
        raise SpecError(f"sizes: factor {factor}, min_pixels {low} and max_pixels {high} leave no size")


def _check_positive(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise DataError("no_pixels", f"{height} x {width} pixels")


def _check_aspect(height: int, width: int) -> None:
    _check_positive(height, width)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise DataError("aspect_extreme", f"{height} x {width} is beyond {MAX_ASPECT} to 1")
