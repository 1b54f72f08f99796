"""Scene cuts by what is seen: PySceneDetect's content and adaptive detectors, over a stream of frames.

Frames are RGB uint8 [H, W, 3] in presentation order. One frame is held at a time, at most 256 pixels long. A cut is
the 0-based index of the first frame of a new scene.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from mmdata.errors import SpecError
from mmdata.views.hsv import hsv, reduce

Mode = Literal["merge", "suppress"]
Weights = tuple[float, float, float]
EVEN: Weights = (1.0, 1.0, 1.0)
MAX_RATIO = 255.0
"""The adaptive ratio where the neighbours do not differ at all."""


def content_scores(
    frames: Iterable[np.ndarray], *, weights: Weights = EVEN, longest: int | None = 256
) -> Iterator[float]:
    """How much each frame differs from the one before, 0-255: the mean over hue, saturation and value (by `weights`)
    of the mean absolute difference of their pixels; the first frame scores 0. Hue is not taken round the circle.

    `longest` is the edge to which larger frames are reduced, None for as they are. (scenedetect 0.7.2:
    `ContentDetector`, with the reduction of `SceneManager`.)

    >>> black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    >>> list(content_scores([black, white, white]))
    [0.0, 85.0, 0.0]
    """
    total = sum(abs(weight) for weight in weights)
    if not total:
        raise SpecError("scenes: all weights are 0")
    before: np.ndarray | None = None
    for frame in frames:
        small = hsv(frame if longest is None else reduce(frame, longest))
        if before is None:
            yield 0.0
        else:
            apart = np.maximum(small, before) - np.minimum(small, before)
            sums = apart.reshape(3, -1).sum(axis=1, dtype=np.int64) / float(apart[0].size)
            yield float(sum(one * weight for one, weight in zip(sums.tolist(), weights, strict=True)) / total)
        before = small


def content_cuts(
    scores: Iterable[float],
    *,
    threshold: float = 27.0,
    min_scene: float = 15,
    mode: Mode = "merge",
    times: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """The cuts of `ContentDetector`: scores (`content_scores`) of at least `threshold`, through `flash_filter`.

    >>> content_cuts([0.0, *[1.0] * 19, 90.0, *[1.0] * 20])
    (20,)
    """
    return flash_filter((score >= threshold for score in scores), min_scene=min_scene, mode=mode, times=times)


def adaptive_cuts(
    scores: Iterable[float],
    *,
    ratio: float = 3.0,
    min_score: float = 15.0,
    window: int = 2,
    min_scene: float = 15,
    times: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """The cuts of `AdaptiveDetector`: a score of at least `min_score` that is `ratio` times the mean of its `window`
    neighbours on either side (255 times where they are all 0), and `min_scene` after the last cut or the start.

    The first and the last `window` frames have too few neighbours to be cuts. (scenedetect 0.7.2.)

    >>> adaptive_cuts([0.0, *[9.0] * 19, 90.0, *[9.0] * 20]), adaptive_cuts([0.0, *[80.0] * 19, 90.0, 80.0, 80.0])
    ((20,), ())
    """
    if window < 1:
        raise SpecError(f"scenes adaptive: window is {window}; give at least 1 frame")
    far_enough = _distance(min_scene, times)
    held: deque[float] = deque(maxlen=2 * window + 1)
    cuts: list[int] = []
    last = 0
    for newest, score in enumerate(scores):
        held.append(score)
        if len(held) < 2 * window + 1:
            continue
        at, value = newest - window, held[window]
        around = sum(one for i, one in enumerate(held) if i != window) / (2.0 * window)
        if abs(around) < 0.00001:
            found = MAX_RATIO if value >= min_score else 0.0
        else:
            found = min(value / around, MAX_RATIO)
        if found >= ratio and value >= min_score and far_enough(last, at):
            cuts.append(at)
            last = at
    return tuple(cuts)


def flash_filter(
    above: Iterable[bool], *, min_scene: float = 15, mode: Mode = "merge", times: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Which of the frames `above` the threshold are cuts, so that no scene is shorter than `min_scene`.

    `suppress` passes a frame when so much time has gone by since the last cut (or the start). `merge` measures from
    the last frame above the threshold; once there has been a cut, frames that follow too closely become one cut at the
    last of them, when it lies `min_scene` after the first and as much calm has followed. A video that ends before has
    no such cut. `min_scene` is in frames, or in seconds where the frames' presentation times are given.
    (scenedetect 0.7.2: `FlashFilter`.)

    >>> flash_filter(at in (20, 40, 44, 60) for at in range(100))
    (20, 40, 60)
    >>> flash_filter((at in (20, 40, 44, 60) for at in range(100)), mode="suppress", min_scene=24)
    (40,)
    """
    if mode not in ("merge", "suppress"):
        raise SpecError(f"scenes: no mode {mode!r}; modes are merge, suppress")
    if min_scene <= 0:
        return tuple(at for at, one in enumerate(above) if one)
    far_enough = _distance(min_scene, times)
    cuts: list[int] = []
    last_above = 0
    begun: int | None = None  # the first of the cuts that are being merged
    for at, one in enumerate(above):
        calm = far_enough(last_above, at)
        if one and (mode == "merge" or calm):
            last_above = at
        if mode == "suppress":
            if one and calm:
                cuts.append(at)
        elif begun is not None:
            if calm and not one and far_enough(begun, last_above):
                cuts.append(last_above)
                begun = None
        elif one and calm:
            cuts.append(at)
        elif one and cuts:
            begun = at
    return tuple(cuts)


def _distance(least: float, times: Sequence[float] | None) -> Callable[[int, int], bool]:
    """Whether two frames lie a scene's least length apart, in frames or in presentation time."""
    if times is None:
        return lambda first, second: second - first >= least
    return lambda first, second: times[second] - times[first] >= least
