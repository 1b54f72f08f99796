"""Encoded media to the arrays that were planned for them: decoded no further than the plan asks, checked against it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdata.decode.planned import Fidelity, decode_for
from mmdata.errors import DataError
from mmdata.families._family import View
from mmdata.types import Augmented, Media, MediaPlan

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
"""Hz of a waveform, where the view does not say another `sample_rate`."""


def realize(
    medium: Media,
    plan: MediaPlan,
    view: View,
    *,
    max_pixels: int,
    fidelity: Fidelity = "exact",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The array of `plan.shape` that `view` makes of a medium's bytes: `out`, if the view can write into it.

    Raises DataError as the decoders do, and `facts_mismatch` where the bytes decode to another size or length than the
    index says, on which the plan was made.
    """
    into = _into(view, out)
    match medium.kind:
        case "image":
            whole = whole_plan(medium, plan)
            array = view.realize(_pixels(medium, whole, max_pixels, fidelity), whole, **into)
        case "video":
            array = view.realize(_video(medium, plan, max_pixels), whole_plan(medium, plan), **into)
        case "audio":
            array = view.realize(_audio(medium, view), plan, **into)
    if tuple(array.shape) != plan.shape:
        raise AssertionError(f"{view.describe()} made {tuple(array.shape)} of what it planned as {plan}")
    if out is not None and into:
        return out
    result: np.ndarray = array.numpy()
    return result


def _into(view: View, out: np.ndarray | None) -> dict[str, Any]:
    import torch

    takes = out is not None and getattr(view, "takes_out", False) and out.dtype == getattr(view, "dtype", "float32")
    return {"out": torch.from_numpy(out)} if takes else {}


def whole_plan(medium: Media, plan: MediaPlan) -> MediaPlan:
    """The plan with what augmentation does first, and then what makes the picture smaller."""
    before = (*(medium.before if isinstance(medium, Augmented) else ()), *plan.before)
    return replace(plan, ops=before + plan.ops, before=()) if before else plan


def bytes_size(medium: Media) -> tuple[int, int] | None:
    """Height and width of the bytes, as the index has them."""
    if isinstance(medium, Augmented):
        return medium.stored
    return None if medium.height is None or medium.width is None else (medium.height, medium.width)


def read_image(medium: Media, max_pixels: int) -> np.ndarray:
    """Exact upright pixels uint8 [H, W, 3] of the size that the facts say."""
    from mmdata.decode.image import decode

    assert medium.data is not None, medium
    pixels = decode(medium.data, max_pixels=max_pixels)
    _check_size(medium, pixels.shape[:2])
    return pixels


def _pixels(medium: Media, plan: MediaPlan, max_pixels: int, fidelity: Fidelity) -> np.ndarray:
    assert medium.data is not None, medium
    return decode_for(medium.data, plan.ops, fidelity=fidelity, max_pixels=max_pixels, size=bytes_size(medium))


def _video(medium: Media, plan: MediaPlan, max_pixels: int) -> torch.Tensor:
    from mmdata.decode.video import decode_frames

    frames = decode_frames(medium, plan.frames, max_pixels=max_pixels).pixels
    _check_size(medium, tuple(frames.shape[-2:]))
    return frames


def _audio(medium: Media, view: View) -> torch.Tensor:
    from mmdata.decode.audio import decode

    assert medium.data is not None, medium
    return decode(medium.data, sample_rate=int(getattr(view, "sample_rate", SAMPLE_RATE)))


def _check_size(medium: Media, size: tuple[int, ...]) -> None:
    known = bytes_size(medium)
    if known is not None and size != known:
        raise DataError("facts_mismatch", f"decoded to {size}, the index says {known}")
