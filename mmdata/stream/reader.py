"""The reader: a planned pack to arrays. Bytes are verified, images decoded, and what fails is masked in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from mmdata.decode.image import decode
from mmdata.errors import DataError, RunError
from mmdata.families._family import Family, Segment, expand, filler
from mmdata.labels import IGNORE, cu_seqlens, labels, positions
from mmdata.shards.dataset import Dataset
from mmdata.templates import Template, encode
from mmdata.types import Decoded, Item, Media, MediaKind, MediaPlan, Pack, Packed, Sample, Slot

T = TypeVar("T")
IO_ATTEMPTS = 3
IO_WAIT = 0.2
CONSTANT = 0.5
"""Value of the media of a masked sample. Not zero, which some models take for padding and drop."""


def read_sample(dataset: Dataset, position: int, *, max_pixels: int) -> Sample:
    """The sample at a position, every image of it `Decoded`.

    Raises DataError where its bytes have changed or are not the image that its facts describe, and RunError when
    the storage fails repeatedly: that is nobody's data, and must not be masked.
    """
    sample = _patiently(lambda: dataset.sample(position), f"{dataset.path}: position {position}")
    parts = tuple(_decoded(part, max_pixels) if isinstance(part, Media) else part for part in sample.parts)
    return replace(sample, parts=parts)


def read_pack(pack: Pack, dataset: Dataset, family: Family, template: Template, *, max_pixels: int) -> Packed:
    """The arrays of a pack, in the shapes that were planned, whatever becomes of its samples.

    A sample that cannot be read keeps its place with constant media and no labels, and is named in `masked`.
    """
    segments: list[Segment] = []
    arrays: list[tuple[MediaPlan, np.ndarray]] = []
    masked: list[tuple[str, str]] = []
    for item in pack.items:
        try:
            segment, media = _read_item(item, dataset, family, template, max_pixels)
        except DataError as error:
            segment = filler(family, item.tokens, item.media)
            media = [np.full(plan.shape, CONSTANT, np.float32) for plan in item.media]
            masked.append((item.key, error.reason))
        segments.append(segment)
        arrays += zip(item.media, media, strict=True)
    return _assemble(segments, arrays, family, pack.keys, tuple(masked))


def dummy(family: Family) -> Packed:
    """A pack of weight zero with one of each medium, for a rank that has no pack left in a step: it runs the same
    modules as the others and adds nothing."""
    facts = [Media(kind=kind, height=64, width=64, frames=1, seconds=1.0) for kind in family.media]
    plans = [family.media[fact.kind].view.plan(fact) for fact in facts]
    segment = filler(family, sum(plan.tokens for plan in plans) + 1, plans)
    arrays = [(plan, np.full(plan.shape, CONSTANT, np.float32)) for plan in plans]
    return _assemble([segment], arrays, family, (), ())


def _read_item(
    item: Item, dataset: Dataset, family: Family, template: Template, max_pixels: int
) -> tuple[Segment, list[np.ndarray]]:
    sample = read_sample(dataset, item.position, max_pixels=max_pixels)
    (encoded,) = encode([sample], family.tokenizer, template)
    if isinstance(encoded, DataError):
        raise encoded
    segment = expand(family, encoded, item.media)
    if sample.key != item.key or len(segment.ids) != item.tokens:
        raise AssertionError(f"{dataset.path}: {sample.key} was planned as {item}, read with {len(segment.ids)} tokens")
    media = []
    for medium, plan in zip(encoded.media, item.media, strict=True):
        assert isinstance(medium, Decoded), medium
        media.append(family.media[medium.kind].view.realize(medium.pixels, plan).numpy())
    return segment, media


def _decoded(medium: Media, max_pixels: int) -> Decoded:
    if medium.kind != "image":
        raise DataError("media_kind", f"no decoder for {medium.kind}")
    assert medium.data is not None, medium
    pixels = decode(medium.data, max_pixels=max_pixels)
    if medium.height is not None and pixels.shape[:2] != (medium.height, medium.width):
        raise DataError(
            "facts_mismatch", f"decoded to {pixels.shape[:2]}, the index says {(medium.height, medium.width)}"
        )
    return Decoded(**{field.name: getattr(medium, field.name) for field in fields(Media)}, pixels=pixels)


def _patiently(read: Callable[[], T], what: str) -> T:
    for attempt in range(1, IO_ATTEMPTS + 1):
        try:
            return read()
        except OSError as error:
            if attempt == IO_ATTEMPTS:
                raise RunError(f"{what}: read failed {attempt} times: {error}") from error
            time.sleep(IO_WAIT * 2**attempt)
    raise AssertionError("unreachable")


def _assemble(
    segments: list[Segment],
    arrays: list[tuple[MediaPlan, np.ndarray]],
    family: Family,
    keys: tuple[str, ...],
    masked: tuple[tuple[str, str], ...],
) -> Packed:
    cu = cu_seqlens([len(segment.ids) for segment in segments])
    trained = [labels(segment.ids, segment.spans) for segment in segments]
    slots = tuple(
        Slot(kind=slot.kind, start=int(first) + slot.start, length=slot.length, tokens=slot.tokens)
        for first, segment in zip(cu, segments, strict=False)
        for slot in segment.slots
    )
    packed = Packed(
        input_ids=np.concatenate([segment.ids for segment in segments]),
        labels=np.concatenate([values for values, _ in trained]),
        loss_weights=np.concatenate([weights for _, weights in trained]),
        position_ids=positions(cu),
        cu_seqlens=cu,
        slots=slots,
        media=_joined(arrays, family),
        keys=keys,
        masked=masked,
    )
    assert (packed.labels[cu[:-1]] == IGNORE).all(), "a label crosses the border of its segment"
    return packed


def _joined(arrays: list[tuple[MediaPlan, np.ndarray]], family: Family) -> dict[str, np.ndarray]:
    kinds: dict[MediaKind, list[np.ndarray]] = {}
    for plan, array in arrays:
        if array.shape != plan.shape:
            raise AssertionError(f"a view made {array.shape} of what it planned as {plan}")
        kinds.setdefault(plan.kind, []).append(array)
    return {
        family.media[kind].key: np.stack(found) if family.media[kind].join == "stack" else np.concatenate(found)
        for kind, found in kinds.items()
    }
