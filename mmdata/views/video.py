"""Video views: which frames, at which times, and what becomes of them: squares, or Qwen-VL's patches in time.

Everything is planned on the facts of the medium: the number of frames, the rate, and the packet table, whose times
are the true ones of a video of variable rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.types import Filter, Media, MediaPlan, Normalise, PixelOp, Resize
from mmdata.views._picture import CLIP_MEAN, CLIP_STD, Backend, Colour, Dtype, check_memory, size_of
from mmdata.views.frames import RULES, TooFewFrames, parameters_of, sample
from mmdata.views.frames_even import counted
from mmdata.views.qwen import VideoPatches
from mmdata.views.smart_resize import VideoRule, patch_times, second_per_grid
from mmdata.views.tiles import split_image

if TYPE_CHECKING:
    import torch

MARKS = {"motion": "motion", "adaptive": "motion", "scenes": "scenes"}
"""The marks (`Media.marks`) that a rule goes by unless told of others."""
IN_PAIRS = ("qwen2_vl", "qwen_vl_utils")
"""Rules whose numbers of frames are multiples of the temporal patch."""
MODEL_PARAMETERS = ("num_frames", "fps", "min_frames", "max_frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """The choice of frames, which all video views share.

    `rule` is a name of `mmdata.views.frames.RULES`; `num_frames`, `fps`, `min_frames` and `max_frames` are its
    parameters, `options` any others, as (name, value) pairs. A number above what a video has is clamped to it, and a
    video of one frame is that frame. `marks` names frames recorded when the dataset was built: rule `keyframe` takes
    them in place of the codec's key frames; `scenes` goes by the scene cuts, `motion` and a long video under `adaptive`
    by the frames of most motion. `jittered` moves each frame by up to so many when there is a generator to draw from.
    `clock` says what `MediaPlan.times` are: `pts`, the true times (index / fps where the facts have no packet table),
    or `index`, index / fps as Hugging Face's processors write timestamps.
    """

    takes_out: ClassVar[bool] = True

    draws: ClassVar[bool] = True

    rule: str = "uniform"
    num_frames: int | None = None
    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    marks: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    jittered: int = 0
    clock: Literal["pts", "index"] = "pts"
    filter: Filter = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SpecError(f"view video: no rule {self.rule!r}; rules are {', '.join(RULES)}")
        known = parameters_of(self._sampler)
        given = {name: getattr(self, name) for name in MODEL_PARAMETERS if getattr(self, name) is not None}
        if unknown := sorted((set(given) | set(dict(self.options))) - known):
            raise SpecError(f"view video: rule {self.rule} has no {', '.join(unknown)}; it has {sorted(known)}")
        if self.num_frames is not None and self.fps is not None and self.rule != "smolvlm":
            raise SpecError("view video: give num_frames or fps, not both")
        for name, value in given.items():
            if value <= 0:
                raise SpecError(f"view video: {name} is {value}; give more than 0")

    @property
    def _sampler(self) -> str:
        """`motion` was weighed when the dataset was built; its frames are recorded like key frames."""
        return "keyframe" if self.rule == "motion" else self.rule

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """What becomes of a video of `facts.frames` frames. `rng` belongs to one sample of one epoch and makes the
        draws of rules that draw and of `jittered`. Raises DataError `no_facts`, and as rules and sizes do."""
        raise NotImplementedError

    def choose(self, facts: Media, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        """The frames to decode, 0-based, in presentation order.

        >>> Video(rule="qwen2_vl", fps=2).choose(Media(kind="video", frames=50, fps=25.0))
        (0, 12, 25, 37)
        >>> Video(num_frames=8).choose(Media(kind="video", frames=3))
        (0, 1, 2)
        """
        if not facts.frames:
            raise DataError("no_facts", "the number of frames is not known; build the dataset with a `probe` step")
        total, name = facts.frames, self._sampler
        given = self._given(facts, name)
        if rng is None and given.get("mode") in ("train", "random"):
            given["mode"] = "test"  # the middles, where nothing is left to chance
        jittered = self.jittered if rng is not None else 0
        try:
            return sample(name, total=total, rng=rng, jittered=jittered, **given)
        except TooFewFrames:
            fewer = self._clamped(total, given)
        if fewer is None:
            return (0,)
        return sample(name, total=total, rng=rng, jittered=jittered, **fewer)

    def _given(self, facts: Media, name: str) -> dict[str, Any]:
        """All parameters of the rule that the view and the facts have, but for `total`."""
        found = {
            **{parameter: getattr(self, parameter) for parameter in MODEL_PARAMETERS},
            "video_fps": facts.fps,
            "duration": duration(facts),
            "temporal": getattr(self, "temporal", None),
        }
        known = parameters_of(name)
        given = {key: value for key, value in found.items() if key in known and value is not None}
        if "video_fps" in known:
            given["video_fps"] = facts.fps  # A rule that needs a rate says so.
        if name == "adaptive" and "duration" not in given:
            raise DataError("no_facts", "the duration of the video is not known")
        marks = self.marks or MARKS.get(self.rule)
        if name == "keyframe" and marks is None:
            if facts.packets is None:
                raise DataError("no_facts", "the packet table is not known, in which the key frames are flagged")
            given["packets"] = facts.packets
        elif marks is not None:
            if marks not in facts.marks and name != "adaptive":
                raise DataError("no_facts", f"no marks {marks!r}; build the dataset with a `mark_frames` step")
            given[{"keyframe": "keys", "scenes": "cuts", "adaptive": "chosen"}[name]] = facts.marks.get(marks)
        return {**given, **dict(self.options)}

    def _clamped(self, total: int, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The parameters with as many frames as there are at most and one (or one group) at least; None where the
        rule has no number that small."""
        count = given.get("num_frames", total)
        if "fps" in given:
            count = int(counted(total, given["fps"], given.get("video_fps")))
        count = min(max(1, count), total)
        if self.rule in IN_PAIRS:
            group = given.get("temporal", 2)
            count = max(group, count - count % group)
            if count > total:
                return None
        fewer = {name: value for name, value in given.items() if name not in ("fps", "min_frames", "max_frames")}
        return {**fewer, "num_frames": count}

    def timed(self, facts: Media, frames: tuple[int, ...]) -> dict[str, Any]:
        """What a plan says of time: when each of `frames` and the video's first one are shown, how long it lasts."""
        begins = self.clocked(facts, (0,)) or (0.0,)
        return {"times": self.clocked(facts, frames), "begins": begins[0], "seconds": duration(facts)}

    def clocked(self, facts: Media, frames: tuple[int, ...]) -> tuple[float, ...]:
        """Seconds at which each of `frames` is shown; none where neither packets nor a rate are known."""
        if self.clock == "pts" and facts.packets is not None:
            table = facts.packets
            shown = np.sort(table.pts[table.flags & table.HIDDEN == 0])
            if len(shown) != facts.frames:
                raise DataError("facts_mismatch", f"{len(shown)} frames by the packets, {facts.frames} by the facts")
            above, below = table.time_base
            return tuple((shown[list(frames)] * above / below).tolist())
        if not facts.fps:
            return ()
        return tuple(index / facts.fps for index in frames)

    def realize(self, frames: torch.Tensor, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """The planned frames, uint8 [T, 3, H, W] of the planned size, to float32 (or uint8) of `plan.shape`."""
        import torch

        from mmdata.views.pixels import apply

        return apply(frames, plan.ops, backend=self.backend, dtype=getattr(torch, self.dtype), out=out)

    def smaller(self) -> Video | None:
        """The view with half as many frames, or None where it says neither how many nor how often."""
        limits = {name: value for name in MODEL_PARAMETERS if (value := getattr(self, name)) is not None}
        if not limits or limits.get("num_frames") == 1:
            return None
        return replace(
            self, **{name: value / 2 if name == "fps" else max(1, value // 2) for name, value in limits.items()}
        )

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameVideo(Video):
    """Each frame is squashed to `size` x `size`: float32 [T, 3, size, size], T * ceil(size / patch / pool)^2 + `extra`
    tokens.

    The defaults are LLaVA-OneVision's, with its newline at the end (`extra`). InternVL: size 448, extra 0. SmolVLM and
    Idefics3 resize the longest edge to `longest_edge` first, by Lanczos. With `repeat` a video of fewer frames than
    `num_frames` shows some of them again, so that the videos of a batch can be stacked. (transformers:
    `LlavaOnevisionVideoProcessor`, `InternVLVideoProcessor`, `SmolVLMVideoProcessor`.)
    """

    size: int = 384
    patch: int = 14
    pool: int = 2
    extra: int = 1
    longest_edge: int | None = None
    repeat: bool = False

    def __post_init__(self) -> None:
        Video.__post_init__(self)
        if min(self.patch, self.pool) < 1 or self.size < self.patch or self.extra < 0 or self.longest_edge == 0:
            raise SpecError(f"view frame video: size {self.size}, patch {self.patch} and pool {self.pool} do not fit")

    @property
    def tokens_per_frame(self) -> int:
        return math.ceil(self.size // self.patch / self.pool) ** 2

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """As `Video.plan`; the grid is one square per frame.

        >>> plan = FrameVideo(num_frames=4).plan(Media(kind="video", frames=9, fps=3.0, height=90, width=160))
        >>> plan.frames, plan.tokens, plan.shape, plan.grid
        ((0, 2, 4, 6), 785, (4, 3, 384, 384), (4, 1, 1))
        """
        size = size_of(facts)
        frames = self.choose(facts, rng)
        if self.repeat and self.num_frames is not None and len(frames) < self.num_frames:
            frames = tuple(frames[at * len(frames) // self.num_frames] for at in range(self.num_frames))
        resizes: tuple[PixelOp, ...] = (Resize(self.size, self.size, self.filter),)
        if self.longest_edge is not None:
            scaled = split_image(*size, size=self.size, longest_edge=self.longest_edge).scaled
            resizes = (Resize(*scaled, self.filter), *resizes)
        check_memory(size, resizes)
        return MediaPlan(
            kind="video",
            tokens=len(frames) * self.tokens_per_frame + self.extra,
            shape=(len(frames), 3, self.size, self.size),
            ops=(*resizes, Normalise(self.mean, self.std)),
            size=size,
            grid=(len(frames), 1, 1),
            frames=frames,
            **self.timed(facts, frames),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchVideo(Video):
    """T frames near their own size become ceil(T / temporal) * gh * gw patches, float32 rows of
    3 * temporal * patch^2, and one token for every `merge`^2 patches.

    Geometry as `mmdata.views.qwen.VideoPatches` (`variant`, limits, cap; None means the published ones). The defaults
    are Qwen2-VL's and Qwen2.5-VL's; Qwen3-VL is rule and variant `qwen3_vl`, patch 16, mean and std 0.5. An odd last
    frame fills its patch; `qwen3_vl`, which refuses fewer frames than a patch spans, gets its last frame repeated.
    """

    rule: str = "qwen2_vl"
    variant: VideoRule = "qwen2_vl"
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int | None = None
    max_pixels: int | None = None
    cap_pixels_per_frame: bool = False
    max_video_tokens: int | None = None

    def __post_init__(self) -> None:
        Video.__post_init__(self)
        _ = self.geometry

    @property
    def geometry(self) -> VideoPatches:
        return VideoPatches(
            variant=self.variant,
            patch=self.patch,
            merge=self.merge,
            temporal=self.temporal,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            cap_pixels_per_frame=self.cap_pixels_per_frame,
            max_video_tokens=self.max_video_tokens,
            filter=self.filter,
            mean=self.mean,
            std=self.std,
        )

    def plan(self, facts: Media, *, rng: np.random.Generator | None = None) -> MediaPlan:
        """As `Video.plan`; the grid counts patches.

        >>> plan = PatchVideo(fps=2).plan(Media(kind="video", frames=75, fps=25.0, height=360, width=640))
        >>> plan.frames, plan.grid, plan.tokens, plan.shape
        ((0, 12, 25, 37, 50, 62), (3, 26, 46), 897, (3588, 1176))
        """
        size = size_of(facts)
        frames = self.choose(facts, rng)
        if self.variant == "qwen3_vl":
            frames += frames[-1:] * (self.temporal - len(frames))
        plan = self.geometry.plan(len(frames), *size)
        check_memory(size, plan.ops)
        return replace(plan, frames=frames, **self.timed(facts, frames))


def sampling(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of a view of videos, later layers over earlier ones. How many frames a later one asks for stands
    in place of how often an earlier one does, and the other way; a rule of a later one, of what it does not take.

    >>> sampling([{"fps": 2.0, "max_frames": 64}, {"num_frames": 8}])
    {'max_frames': 64, 'num_frames': 8}
    >>> sampling([{"fps": 2.0, "max_frames": 64}, {"rule": "uniform"}])
    {'fps': 2.0, 'rule': 'uniform'}
    """
    values: dict[str, Any] = {}
    for layer in layers:
        rule = layer.get("rule", values.get("rule"))
        values = dict(values)
        if "rule" in layer and rule in RULES:
            known = parameters_of("keyframe" if rule == "motion" else rule)
            names = (set(MODEL_PARAMETERS) | {"options"}) - known
            values = {name: value for name, value in values.items() if name not in names}
        for name, other in (("num_frames", "fps"), ("fps", "num_frames")):
            if rule != "smolvlm" and layer.get(name) is not None and other not in layer:
                values.pop(other, None)
        values.update(layer)
    return values


def duration(facts: Media) -> float | None:
    """Seconds that a video lasts: as recorded, or its frames over its rate; None where neither is known."""
    if facts.seconds is None and facts.fps and facts.frames:
        return facts.frames / facts.fps
    return facts.seconds


def second_per_grid_ts(plan: MediaPlan, facts: Media, *, temporal: int = 2) -> float:
    """Seconds that one temporal patch of the plan spans: `temporal` over the sampled rate, for Qwen2.5-VL's M-RoPE."""
    if not facts.frames or not facts.fps:
        raise DataError("no_facts", "the number of frames and the rate of the video are not known")
    return second_per_grid(len(plan.frames), facts.frames, facts.fps, temporal)


def elapsed(plan: MediaPlan) -> tuple[float, ...]:
    """Seconds from the video's first frame on at which each of the planned is shown; differences to the microsecond,
    so that a floor of them is not one less for want of a bit."""
    if not plan.begins:
        return plan.times
    return tuple(round(shown - plan.begins, 6) for shown in plan.times)


def timestamps(plan: MediaPlan, *, temporal: int = 2) -> tuple[float, ...]:
    """Seconds of each temporal patch from the video's first frame on: the mean of the times of its first and last one.
    Qwen3-VL writes each as `<%.1f seconds>` before the patch's tokens; equal to Hugging Face's with a plan of
    `clock="index"`."""
    return patch_times(elapsed(plan), temporal)
