"""Qwen-VL's native resolution: a picture or video near its own size as patches in blocks that the model merges."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmdata.errors import SpecError
from mmdata.types import Filter, Media, MediaPlan, Normalise, Patchify, Resize
from mmdata.views._picture import CLIP_MEAN, CLIP_STD, Backend, Colour, Dtype, apply, check_memory, size_of
from mmdata.views.patches import check_patches
from mmdata.views.smart_resize import VideoRule, dynamic_resolution, smart_resize, video_size

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartResize:
    """An image of about its own size becomes gh x gw patches, float32 [gh*gw, 3*temporal*patch*patch], and
    gh*gw / merge^2 tokens.

    `min_pixels` and `max_pixels` bound the resized picture; the defaults are Qwen2-VL's published ones. Qwen3-VL's are
    patch 16, 65,536 and 16,777,216 pixels, mean and std 0.5. `rule` is that of the size: `transformers`,
    `qwen_vl_utils`, or the older `dynamic_resolution` (which merges nothing). A still picture fills the `temporal`
    frames of a patch. `dtype="uint8"` leaves normalising to the device.
    (transformers: `Qwen2VLImageProcessor`; the pixels of qwen-vl-utils are those of `backend="pil"`.)
    """

    takes_out: ClassVar[bool] = True

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 14 * 14 * 4 * 16384
    rule: Literal["transformers", "qwen_vl_utils", "dynamic_resolution"] = "transformers"
    filter: Filter = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_patches("smart_resize", self.patch, self.merge, self.temporal, self.min_pixels, self.max_pixels)
        if self.rule == "dynamic_resolution" and self.merge != 1:
            raise SpecError(f"view smart_resize: the rule dynamic_resolution needs merge 1, not {self.merge}")

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels. Raises DataError `no_facts`, and
        `aspect_extreme` for what the rule refuses.

        >>> plan = SmartResize().plan(Media(kind="image", height=480, width=640))
        >>> plan.ops[0], plan.grid, plan.tokens, plan.shape     # 476 / 14 = 34, 644 / 14 = 46
        (Resize(height=476, width=644, filter='bicubic'), (1, 34, 46), 391, (1564, 1176))
        """
        height, width = size_of(facts)
        if self.rule == "dynamic_resolution":
            new_h, new_w = dynamic_resolution(height, width, self.patch, self.min_pixels, self.max_pixels)
        else:
            factor = self.patch * self.merge
            new_h, new_w = smart_resize(height, width, factor, self.min_pixels, self.max_pixels, variant=self.rule)
        resize = Resize(new_h, new_w, self.filter)
        check_memory((height, width), (resize,))
        rows, columns = new_h // self.patch, new_w // self.patch
        return MediaPlan(
            kind="image",
            tokens=rows * columns // self.merge**2,
            shape=(rows * columns, 3 * self.temporal * self.patch**2),
            ops=(
                resize,
                Normalise(self.mean, self.std),
                Patchify(self.patch, merge=self.merge, temporal=self.temporal),
            ),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to patches of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def smaller(self) -> SmartResize | None:
        """The view with half the most pixels, or None at the least."""
        if self.max_pixels <= self.min_pixels:
            return None
        return replace(self, max_pixels=max(self.min_pixels, self.max_pixels // 2))

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "smart_resize", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPatches:
    """T sampled frames become ceil(T / temporal) x gh x gw patches: the geometry of Qwen-VL's videos, to which a view
    of videos adds the choice of frames.

    `variant`, limits and cap are those of `video_size`; None means the published ones. An odd last frame is repeated.
    (transformers: `Qwen2VLVideoProcessor`, `Qwen3VLVideoProcessor`.)
    """

    variant: VideoRule = "qwen2_vl"
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int | None = None
    max_pixels: int | None = None
    cap_pixels_per_frame: bool = False
    max_video_tokens: int | None = None
    filter: Filter = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def __post_init__(self) -> None:
        check_patches("video patches", self.patch, self.merge, self.temporal, self.min_pixels or 1, self.max_pixels)

    def plan(self, frames: int, height: int, width: int) -> MediaPlan:
        """What becomes of `frames` frames of `height` x `width` pixels; `MediaPlan.frames` and `times` are left empty.

        >>> plan = VideoPatches().plan(5, 360, 640)
        >>> plan.grid, plan.tokens, plan.shape
        ((3, 26, 46), 897, (3588, 1176))
        """
        new_h, new_w = video_size(
            frames,
            height,
            width,
            variant=self.variant,
            factor=self.patch * self.merge,
            temporal=self.temporal,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            cap_pixels_per_frame=self.cap_pixels_per_frame,
            max_video_tokens=self.max_video_tokens,
        )
        times, rows, columns = -(-frames // self.temporal), new_h // self.patch, new_w // self.patch
        return MediaPlan(
            kind="video",
            tokens=times * rows * columns // self.merge**2,
            shape=(times * rows * columns, 3 * self.temporal * self.patch**2),
            ops=(
                Resize(new_h, new_w, self.filter),
                Normalise(self.mean, self.std),
                Patchify(self.patch, merge=self.merge, temporal=self.temporal),
            ),
            size=(height, width),
            grid=(times, rows, columns),
        )
