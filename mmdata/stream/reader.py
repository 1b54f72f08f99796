"""The reader: a planned pack to arrays. Bytes are verified, images decoded, and what fails is masked in its place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np

from mmdata.errors import DataError, RunError
from mmdata.families._family import Family, Segment, View, expand, filler, media_length, plan_media, views
from mmdata.shards.dataset import Dataset
from mmdata.stream.assemble import assemble
from mmdata.stream.fit import trimmed
from mmdata.stream.materialized import usable
from mmdata.stream.pictures import Pending, pending, together
from mmdata.stream.realize import read_image, realize
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template, encode
from mmdata.types import Decoded, Item, Media, MediaPlan, Pack, Packed, Sample
from mmdata.views.augment import drawn
from mmdata.views.stored import restore

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
    sample = _patiently(lambda: dataset.sample(position), _place(dataset, position))
    if any(medium.data is None for medium in sample.media):
        raise DataError("materialized_other", f"{sample.key}: the dataset keeps what a view made of it, not its media")
    parts = tuple(_decoded(part, max_pixels) if isinstance(part, Media) else part for part in sample.parts)
    return replace(sample, parts=parts)


def read_pack(
    pack: Pack,
    dataset: Dataset,
    family: Family,
    template: Template,
    spec: StreamSpec,
    fallbacks: Counter[str] | None = None,
) -> Packed:
    """The arrays of a pack, in the shapes that were planned, whatever becomes of its samples.

    A sample that cannot be read keeps its place with constant media and no labels, and is named in `masked`.
    `fallbacks` counts the pictures that DALI left to the CPU, by reason.
    """
    attempts = [_attempt(item, dataset, family, template, spec) for item in pack.items]
    read = together(attempts, spec, Counter() if fallbacks is None else fallbacks)
    segments: list[Segment] = []
    arrays: list[list[np.ndarray]] = []
    masked: list[tuple[str, str]] = []
    for item, sample in zip(pack.items, read, strict=True):
        if isinstance(sample, DataError):
            segment = filler(family, item.tokens, item.media)
            media = [np.full(plan.shape, CONSTANT, np.float32) for plan in item.media]
            masked.append((item.key, sample.reason))
        else:
            segment, media = sample
        segments.append(segment)
        arrays.append(media)
    plans = [item.media for item in pack.items]
    return assemble(segments, plans, arrays, family, keys=pack.keys, masked=tuple(masked))


def dummy(family: Family) -> Packed:
    """A pack of weight zero with one of each medium, for a rank that has no pack left in a step: it runs the same
    modules as the others and adds nothing."""
    facts = [
        Media(kind=kind, height=64, width=64, frames=8, fps=8.0, seconds=1.0, samples=16_000, sample_rate=16_000)
        for kind in family.media
    ]
    plans = tuple(plan for fact in facts for plan in plan_media(family, [fact]))
    tokens = sum(media_length(family, plan) for plan in plans) + 1
    arrays = [np.full(plan.shape, CONSTANT, np.float32) for plan in plans]
    return assemble([filler(family, tokens, plans)], [plans], [arrays], family)


def _attempt(
    item: Item, dataset: Dataset, family: Family, template: Template, spec: StreamSpec
) -> tuple[Segment, list[np.ndarray | Pending]] | DataError:
    try:
        return _read_item(item, dataset, family, template, spec)
    except DataError as error:
        return error


def _read_item(
    item: Item, dataset: Dataset, family: Family, template: Template, spec: StreamSpec
) -> tuple[Segment, list[np.ndarray | Pending]]:
    sample = _patiently(lambda: dataset.sample(item.position, media=False), _place(dataset, item.position))
    sample = trimmed(drawn(sample, spec.augment, seed=spec.seed, epoch=item.epoch), item.trim)
    (encoded,) = encode([sample], family.tokenizer, template)
    if isinstance(encoded, DataError):
        raise encoded
    segment = expand(family, encoded, item.media)
    if sample.key != item.key or len(segment.ids) != item.tokens:
        raise AssertionError(f"{dataset.path}: {sample.key} was planned as {item}, read with {len(segment.ids)} tokens")
    media = [
        _array(medium, plan, view, dataset, item.position, spec)
        for medium, plan, view in zip(encoded.media, item.media, views(family, encoded.media), strict=True)
    ]
    return segment, media


def _array(
    medium: Media, plan: MediaPlan, view: View, dataset: Dataset, position: int, spec: StreamSpec
) -> np.ndarray | Pending:
    """The planned array: as the build has stored it, or else of the medium's own bytes, be it together with the rest
    of the pack."""
    made = usable(medium, view, plan, spec)
    place = made.place if made else medium.place
    assert place is not None, f"{dataset.path}: position {position} was planned without bytes to read"
    data = _patiently(lambda: dataset.read(position, place), _place(dataset, position))
    if made is not None:
        return restore(data, made, view, plan)
    medium = replace(medium, data=data)
    if spec.image_decoder == "dali" and medium.kind == "image":
        return pending(medium, plan, view, spec)
    return realize(medium, plan, view, max_pixels=spec.max_pixels, fidelity=spec.decode)


def _place(dataset: Dataset, position: int) -> str:
    return f"{dataset.path}: position {position}"


def _decoded(medium: Media, max_pixels: int) -> Media:
    """An image with its pixels; video and audio as they are, for nobody has said which frames or samples to take."""
    if medium.kind != "image":
        return medium
    pixels = read_image(medium, max_pixels)
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
