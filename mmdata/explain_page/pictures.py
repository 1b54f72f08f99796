"""Media as the model sees them: the pictures that a plan makes, before they are numbers, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmdata.decode.planned import decode_for
from mmdata.families._family import View
from mmdata.stream.realize import bytes_size, realize, whole_plan
from mmdata.types import Fork, KeepRows, Media, MediaPlan, Normalise, Op, Patchify, Standardise

SIDE = 224
"""Longest side of a picture on the page, in pixels."""
MOST = 24
"""Pictures of one medium that are shown."""
NUMBERS = (Normalise, Standardise, Patchify, KeepRows)


def seen(medium: Media, plan: MediaPlan, view: View, *, max_pixels: int) -> list[str]:
    """Every tile, frame or spectrogram of a medium as a data URI, at most `MOST`. Raises DataError for bytes that can
    not be read as planned."""
    match medium.kind:
        case "image":
            whole = whole_plan(medium, plan)
            assert medium.data is not None, medium
            pixels: Any = decode_for(medium.data, whole.ops, max_pixels=max_pixels, size=bytes_size(medium))
            return _pictures(pixels, whole.ops)
        case "video":
            from mmdata.decode.video import decode_frames

            whole = whole_plan(medium, plan)
            return _pictures(decode_frames(medium, plan.frames, max_pixels=max_pixels).pixels, whole.ops)
        case "audio":
            mel = realize(medium, plan, view, max_pixels=max_pixels)
            return [_uri(_spectrogram(mel.reshape(-1, *mel.shape[-2:])[0]))]


def before_numbers(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The operations up to the one that makes numbers of pixels, in every branch of a `Fork` too."""
    kept: list[Op] = []
    for op in ops:
        if isinstance(op, NUMBERS):
            break
        if isinstance(op, Fork):
            kept.append(Fork(tuple(before_numbers(branch) for branch in op.branches)))  # type: ignore[misc]
            continue
        kept.append(op)
    return tuple(kept)


def _pictures(pixels: Any, ops: Sequence[Op]) -> list[str]:
    from mmdata.views.pixels import apply

    made = apply(pixels, before_numbers(ops)).numpy()
    return [_uri(Image.fromarray(each.transpose(1, 2, 0))) for each in made.reshape(-1, *made.shape[-3:])[:MOST]]


def _spectrogram(mel: np.ndarray) -> Image.Image:
    """Low tones below, louder is brighter."""
    span = max(float(mel.max() - mel.min()), 1e-9)
    return Image.fromarray(((mel - mel.min()) / span * 255).astype(np.uint8)[::-1]).convert("RGB")


def _uri(image: Image.Image) -> str:
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
