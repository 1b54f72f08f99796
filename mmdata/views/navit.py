"""NaViT: patches of an image at its own shape, at a size drawn anew, with patches dropped at a rate drawn anew.

Also the door to the other views of native resolution (Qwen-VL, NaFlex, Pix2Struct, Pixtral), whose plain functions
are reached as `navit.smart_resize` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmdata.errors import SpecError
from mmdata.rng import random_subset
from mmdata.types import Filter, KeepRows, Media, MediaPlan, Normalise, Patchify, PixelOp, Resize
from mmdata.views._picture import HALF, Backend, Colour, Dtype, apply, check_memory, size_of
from mmdata.views.naflex import NaFlex, naflex_size
from mmdata.views.patches import check_patches, keep_rows, patch_coordinates, patchify
from mmdata.views.pix2struct import Pix2Struct, pix2struct_grid
from mmdata.views.pixtral import LongestEdge, pixtral_size
from mmdata.views.qwen import SmartResize, VideoPatches
from mmdata.views.smart_resize import dynamic_resolution, patch_times, second_per_grid, smart_resize, video_size

if TYPE_CHECKING:
    import torch

__all__ = [
    "LongestEdge",
    "NaFlex",
    "NaViT",
    "Pix2Struct",
    "SmartResize",
    "VideoPatches",
    "beta_parameters",
    "drop_rate",
    "drop_tokens",
    "dynamic_resolution",
    "image_ids",
    "keep_rows",
    "kept",
    "kept_coordinates",
    "naflex_size",
    "patch_coordinates",
    "patch_times",
    "patchify",
    "pix2struct_grid",
    "pixtral_size",
    "pooling_mask",
    "sample_resolution",
    "second_per_grid",
    "sigmoid_schedule",
    "smart_resize",
    "video_size",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NaViT:
    """An image becomes gh x gw patches of its own shape, of which some are dropped: float32 [tokens, 3*patch*patch], a
    row of (channel, y, x) per kept patch, in raster order.

    The picture has at most side^2 pixels. With a generator the side is drawn by `sample_resolution` between `low` and
    `high`, and the share of dropped patches by `drop_rate` with mean `drop_mean` and limit `drop_max`; without one
    (evaluation) the side is `side` and nothing is dropped. `schedule` (low, high, middle, width) moves the mean of the
    rate as training goes on; see `at`. (Dehghani et al. 2023, arXiv 2307.06304.)
    """

    takes_out: ClassVar[bool] = True

    draws: ClassVar[bool] = True

    patch: int = 16
    side: int = 256
    low: int = 64
    high: int = 384
    drop_mean: float = 0.0
    drop_max: float = 0.9
    schedule: tuple[float, float, float, float] | None = None
    filter: Filter = "bilinear"
    mean: Colour = HALF
    std: Colour = HALF
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_patches("navit", self.patch, 1, 1, self.low, self.high)
        if self.side < 1:
            raise SpecError(f"view navit: side {self.side}")
        _check_rate(self.drop_mean, self.drop_max)
        if self.schedule is not None:
            for mean in self.schedule[:2]:
                _check_rate(mean, self.drop_max)

    def at(self, seen: float) -> NaViT:
        """The view after `seen` images (or steps, or whatever `schedule` counts in): its mean drop rate is settled."""
        if self.schedule is None:
            return self
        return replace(self, drop_mean=sigmoid_schedule(seen, *self.schedule), schedule=None)

    def plan(self, facts: Media | tuple[int, int], *, rng: np.random.Generator | None = None) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels, by this draw of `rng`, which belongs to
        one sample of one epoch (`mmdata.rng.generator(seed, epoch, key, "navit")`). Raises DataError `no_facts`, and
        `aspect_extreme` for a strip that would fill the memory.

        >>> plan = NaViT().plan(Media(kind="image", height=480, width=640))
        >>> plan.ops[0], plan.grid, plan.shape     # at most (256 / 16)^2 = 256 patches
        (Resize(height=208, width=288, filter='bilinear'), (1, 13, 18), (234, 768))
        """
        height, width = size_of(facts)
        side = self.side if rng is None else sample_resolution(rng, self.low, self.high)
        rows, columns = pix2struct_grid(height, width, self.patch, max(1, int((side / self.patch) ** 2)))
        resize = Resize(rows * self.patch, columns * self.patch, self.filter)
        check_memory((height, width), (resize,))
        ops: tuple[PixelOp, ...] = (resize, Normalise(self.mean, self.std), Patchify(self.patch))
        tokens = rows * columns
        if rng is not None and self.drop_mean > 0:
            tokens = kept(tokens, drop_rate(rng, self.drop_mean, self.drop_max))
            ops = (*ops, KeepRows(tokens, int(rng.integers(1 << 62))))
        return MediaPlan(
            kind="image",
            tokens=tokens,
            shape=(tokens, 3 * self.patch**2),
            ops=ops,
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to the kept patches, of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def smaller(self) -> NaViT | None:
        """The view with half the pixels, at any draw, or None at one patch."""
        low, high, side = (edge * 5 // 7 for edge in (self.low, self.high, self.side))
        return replace(self, low=low, high=high, side=side) if min(low, side) >= self.patch else None

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "navit", **asdict(self)}


def sample_resolution(
    rng: np.random.Generator, low: int = 64, high: int = 384, mean: float = -0.5, std: float = 1.0
) -> int:
    """The side in pixels, from `low` to `high`, of a square of as many pixels as the image is to have: a normal
    variable of `mean` and `std` truncated to [-1, 1] and stretched to [low, high] (arXiv 2307.06304).

    One uniform draw through the inverse distribution, so that nothing is rejected and the stream stays in step.

    >>> from mmdata.rng import generator
    >>> [sample_resolution(generator(0, epoch, "000000017", "navit")) for epoch in range(4)]
    [205, 76, 286, 140]
    """
    if not 1 <= low <= high or not std > 0:
        raise SpecError(f"sample_resolution: low {low}, high {high} and std {std}")
    normal = NormalDist(mean, std)
    first, last = normal.cdf(-1.0), normal.cdf(1.0)
    share = min(max(first + float(rng.random()) * (last - first), 5e-324), 1 - 2**-53)
    stretched = (min(max(normal.inv_cdf(share), -1.0), 1.0) + 1) / 2
    return round(low + stretched * (high - low))


def beta_parameters(mean: float, maximum: float, spread: float = 0.3) -> tuple[float, float]:
    """(a, b) of the Beta distribution on [0, maximum] of this mean whose variance is `spread` of the largest possible:
    on [0, 1], with m = mean / maximum, spread * m * (1 - m).

    >>> beta_parameters(0.5, 1.0, spread=0.25)
    (1.5, 1.5)
    """
    _check_rate(mean, maximum)
    if not 0 < mean < maximum or not 0 < spread < 1:
        raise SpecError(f"beta_parameters: a mean of {mean} in 0..{maximum} with spread {spread} is no distribution")
    share = mean / maximum
    return share * (1 / spread - 1), (1 - share) * (1 / spread - 1)


def drop_rate(rng: np.random.Generator, mean: float, maximum: float = 0.9, spread: float = 0.3) -> float:
    """Share of an image's patches to drop: Beta distributed on [0, maximum] with this mean (continuous token dropping,
    arXiv 2307.06304); a mean of 0 or of `maximum` leaves nothing to chance."""
    _check_rate(mean, maximum)
    if mean in (0, maximum):
        return float(mean)
    return maximum * float(rng.beta(*beta_parameters(mean, maximum, spread)))


def sigmoid_schedule(seen: float, low: float, high: float, middle: float, width: float) -> float:
    """From `low` to `high` (or down to it) as `seen` passes `middle`, over about 4 * `width`:
    low + (high - low) / (1 + exp(-(seen - middle) / width)).

    >>> sigmoid_schedule(0, 0.2, 0.8, middle=0, width=1)
    0.5
    """
    if width == 0:
        raise SpecError("sigmoid_schedule: a width of 0")
    # tanh does not overflow where exp would.
    return low + (high - low) * (1 + math.tanh((seen - middle) / width / 2)) / 2


def kept(tokens: int, rate: float) -> int:
    """How many of `tokens` patches are kept, at least one.

    >>> kept(196, 0.5), kept(3, 0.99)
    (98, 1)
    """
    return max(1, int(tokens * (1 - rate)))


def drop_tokens(tokens: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of the patches that are kept, a random subset in ascending order: int64 [max(1, tokens * (1 - rate))].

    >>> from mmdata.rng import generator
    >>> drop_tokens(10, 0.6, generator(0, 0, "000000017", "drop")).tolist()
    [3, 5, 7, 8]
    """
    if tokens < 1 or not 0 <= rate <= 1:
        raise SpecError(f"drop_tokens: {rate} of {tokens} tokens")
    return random_subset(tokens, kept(tokens, rate), rng)


def kept_coordinates(plan: MediaPlan) -> np.ndarray:
    """(row, column) in the grid of each patch that a NaViT plan keeps: int64 [plan.tokens, 2]."""
    assert plan.grid is not None, plan
    all_of_them = patch_coordinates(plan.grid)
    last = plan.ops[-1]
    return all_of_them[keep_rows(len(all_of_them), last)] if isinstance(last, KeepRows) else all_of_them


def image_ids(lengths: Sequence[int], capacity: int | None = None) -> np.ndarray:
    """Which image each patch of a packed row belongs to, -1 for padding up to `capacity`: int32 [capacity or sum].

    >>> image_ids([2, 3], 6).tolist()
    [0, 0, 1, 1, 1, -1]
    """
    total = sum(lengths)
    if capacity is not None and total > capacity:
        raise SpecError(f"image_ids: {total} patches in a row of {capacity}")
    ids = np.full(total if capacity is None else capacity, -1, np.int32)
    ids[:total] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return ids


def pooling_mask(ids: np.ndarray, images: int) -> np.ndarray:
    """Whether image i is pooled from patch j: bool [images, L]. One query per image, attending where this is true,
    pools every image of a row apart from the others and from padding.

    >>> pooling_mask(image_ids([1, 2], 4), 2).astype(int).tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0]]
    """
    mask: np.ndarray = ids[None, :] == np.arange(images, dtype=ids.dtype)[:, None]
    return mask


def _check_rate(mean: float, maximum: float) -> None:
    if not 0 <= mean <= maximum <= 1:
        raise SpecError(
            f"token dropping: a mean rate of {mean} and a limit of {maximum} are not 0 <= mean <= limit <= 1"
        )
