"""The reader: a planned pack to arrays. Bytes are verified, images decoded, and what fails is masked in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from mmdata.errors import DataError
from mmdata.families._family import Family, Segment, View, expand, filler, media_length, parted, plan_media, views
from mmdata.shards.dataset import Dataset
from mmdata.shards.raw import RawSample
from mmdata.shards.retry import patiently
from mmdata.stream.assemble import assemble
from mmdata.stream.fit import trimmed
from mmdata.stream.materialized import usable
from mmdata.stream.pictures import Pending, pending, together
from mmdata.stream.realize import read_image, realize
from mmdata.stream.rooms import Room, rooms
from mmdata.stream.spec import StreamSpec
from mmdata.stream.stats import Spent
from mmdata.templates import ANSWERS, Template, encode
from mmdata.types import Decoded, Item, Media, MediaPlan, Pack, Packed, Sample
from mmdata.views.augment import drawn
from mmdata.views.stored import restore

T = TypeVar("T")
CONSTANT = 0.5
"""Value of the media of a masked sample. Not zero, which some models take for padding and drop."""


def read_sample(
    dataset: Dataset, position: int, *, max_pixels: int, decoded: bool = True, spent: Spent | None = None
) -> Sample:
    """The sample at a position, every image of it `Decoded`, or with its bytes only.

    Raises DataError where its bytes have changed or are not the image that its facts describe, and RunError when
    the storage fails repeatedly: that is nobody's data, and must not be masked.
    """
    sample = _patiently(dataset, position, lambda: dataset.sample(position))
    if any(medium.data is None for medium in sample.media):
        raise DataError("materialized_other", f"{sample.key}: the dataset keeps what a view made of it, not its media")
    if spent is not None:
        spent.samples += 1
        spent.bytes += sum(len(medium.data or b"") for medium in sample.media)
        spent.lap("read")
    if not decoded:
        return sample
    parts = tuple(_decoded(part, max_pixels) if isinstance(part, Media) else part for part in sample.parts)
    if spent is not None:
        spent.lap("decode")
    return replace(sample, parts=parts)


def read_bytes(dataset: Dataset, position: int, *, spent: Spent | None = None) -> RawSample:
    """The sample at a position as its bytes. Raises as `read_sample` does."""
    sample = RawSample(*_patiently(dataset, position, lambda: dataset.raw(position)))
    if spent is not None:
        spent.samples += 1
        spent.bytes += sum(map(len, sample.parts.values()))
        spent.lap("read")
    return sample


def read_pack(
    pack: Pack,
    datasets: Sequence[Dataset],
    family: Family,
    templates: Sequence[Template],
    spec: StreamSpec,
    fallbacks: Counter[str] | None = None,
    known: Callable[[Item], str | None] = lambda item: None,
    spent: Spent | None = None,
) -> Packed:
    """The arrays of a pack of samples of `datasets` (each with its template), in the shapes that were planned, whatever
    becomes of its samples. All texts of the pack are read first and tokenised in one call.

    A sample that cannot be read keeps its place with constant media and no labels, and is named in `masked`; so is one
    for which `known` has a reason, without an attempt. `fallbacks` counts the pictures that DALI left to the CPU, by
    reason; `spent` is told where the time goes.
    """
    spent = Spent() if spent is None else spent
    texts = _texts(pack, datasets, spec, known)
    spent.lap("read")
    encoded = _encoded(pack, texts, datasets, family, templates)
    spent.lap("encode")
    planned = [item.media for item in pack.items]
    # DALI has memory of its own, of the whole pack.
    places = rooms(planned, None if spec.image_decoder == "dali" else family)
    attempts = [
        _media(item, found, datasets, family, spec, spent, into)
        for item, found, into in zip(pack.items, encoded, places, strict=True)
    ]
    read = together(attempts, spec, Counter() if fallbacks is None else fallbacks)
    spent.lap("decode")
    segments: list[Segment] = []
    plans: list[tuple[MediaPlan, ...]] = []
    arrays: list[list[np.ndarray]] = []
    of: list[int] = []
    answers: list[str] = []
    masked: dict[int, str] = {}
    for number, (item, sample) in enumerate(zip(pack.items, read, strict=True)):
        if isinstance(sample, DataError):
            segment = filler(family, item.tokens, item.media)
            media = [np.full(plan.shape, CONSTANT, np.float32) for plan in item.media]
            masked[len(segments)] = sample.reason
        else:
            segment, media = sample
        at = 0
        pieces = parted(segment) if segment.breaks else [segment]
        for piece in pieces:
            segments.append(piece)
            plans.append(item.media[at : at + len(piece.slots)])
            arrays.append(media[at : at + len(piece.slots)])
            at += len(piece.slots)
        of += [number] * len(pieces)
        answers += ANSWERS if len(pieces) > 1 else ("",)
    told = [_told(item, sample, spec) for item, sample in zip(pack.items, texts, strict=True)]
    packed = assemble(
        segments,
        plans,
        arrays,
        family,
        keys=tuple(pack.items[number].key for number in of),
        masked=masked,
        tasks=tuple(told[number][0] for number in of),
        sample_weights=tuple(told[number][1] for number in of),
        places=tuple((pack.items[number].dataset, pack.items[number].position) for number in of),
        answers=tuple(answers),
    )
    if spec.carry:
        packed = replace(packed, fields=tuple(carried(texts[number], spec.carry) for number in of))
    spent.samples += len(pack.items)
    spent.lap("collate")
    return packed


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


def _texts(
    pack: Pack, datasets: Sequence[Dataset], spec: StreamSpec, known: Callable[[Item], str | None]
) -> list[Sample | DataError]:
    """Each sample as it is planned, its media not read."""
    found: list[Sample | DataError] = []
    for item in pack.items:
        reason = known(item)
        if reason is not None:
            found.append(DataError(reason, "known of this run"))
            continue
        if item.damaged is not None:
            found.append(DataError(item.damaged, "its text could not be read when it was counted"))
            continue
        dataset = datasets[item.dataset]
        try:
            sample = _patiently(dataset, item.position, lambda: dataset.sample(item.position, media=False))  # noqa: B023
            weight_of(sample, spec.weight_field)
            found.append(trimmed(drawn(sample, spec.augment, seed=spec.seed, epoch=item.epoch), item.trim))
        except DataError as error:
            found.append(error)
    return found


def weight_of(sample: Sample, name: str | None) -> float:
    """What a sample's tokens weigh by the field `name` of its meta; 1 where it has none. Raises DataError
    (`sample_weight`) for what is no number, or negative."""
    value = None if name is None else sample.meta.get(name)
    if value is None:
        return 1.0
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise DataError("sample_weight", f"{sample.key}: meta {name} is {value!r}; a weight is a number, 0 or more")
    return weight


def _told(item: Item, sample: Sample | DataError, spec: StreamSpec) -> tuple[str, float]:
    """What a sample is counted under, and what it weighs."""
    title = spec.sources[item.dataset].title
    if isinstance(sample, DataError):
        return title, 1.0
    return str(sample.meta.get(spec.task_field) or title), weight_of(sample, spec.weight_field)


def carried(sample: Sample | DataError, names: Sequence[str]) -> dict[str, Any]:
    """What a batch carries of a sample: the fields that it has, and how large its only picture and how long its only
    sound is. Nothing of one that could not be read."""
    if isinstance(sample, DataError):
        return {}
    found = {name: sample.meta[name] for name in names if name in sample.meta}
    pictures = [medium for medium in sample.media if medium.kind == "image"]
    sounds = [medium for medium in sample.media if medium.kind == "audio"]
    if len(pictures) == 1 and pictures[0].height and pictures[0].width:
        found["size"] = [pictures[0].height, pictures[0].width]
    if len(sounds) == 1 and sounds[0].seconds:
        found["seconds"] = sounds[0].seconds
    return found


def _encoded(
    pack: Pack,
    samples: Sequence[Sample | DataError],
    datasets: Sequence[Dataset],
    family: Family,
    templates: Sequence[Template],
) -> list[tuple[Segment, tuple[Media, ...]] | DataError]:
    """The tokens of each sample, as many as were planned, and its media in the order of their slots."""
    results: list[tuple[Segment, tuple[Media, ...]] | DataError] = [
        sample if isinstance(sample, DataError) else DataError("unreachable") for sample in samples
    ]
    for number in dict.fromkeys(item.dataset for item in pack.items):
        there = [
            (at, sample)
            for at, (item, sample) in enumerate(zip(pack.items, samples, strict=True))
            if item.dataset == number and isinstance(sample, Sample)
        ]
        encoded = encode([sample for _, sample in there], family.tokenizer, templates[number])
        for (at, sample), found in zip(there, encoded, strict=True):
            if isinstance(found, DataError):
                results[at] = found
                continue
            item = pack.items[at]
            segment = expand(family, found, item.media)
            if sample.key != item.key or len(segment.ids) != item.tokens:
                raise AssertionError(
                    f"{datasets[number].path}: {sample.key} was planned as {item}, read with {len(segment.ids)} tokens"
                )
            results[at] = segment, found.media
    return results


def _media(
    item: Item,
    encoded: tuple[Segment, tuple[Media, ...]] | DataError,
    datasets: Sequence[Dataset],
    family: Family,
    spec: StreamSpec,
    spent: Spent,
    into: Sequence[Room | None],
) -> tuple[Segment, list[np.ndarray | Pending]] | DataError:
    if isinstance(encoded, DataError):
        return encoded
    segment, media = encoded
    try:
        arrays = [
            _array(medium, plan, view, datasets[item.dataset], item.position, spec, spent, room)
            for medium, plan, view, room in zip(media, item.media, views(family, media), into, strict=True)
        ]
    except DataError as error:
        return error
    return segment, arrays


def _array(
    medium: Media,
    plan: MediaPlan,
    view: View,
    dataset: Dataset,
    position: int,
    spec: StreamSpec,
    spent: Spent,
    room: Room | None,
) -> np.ndarray | Pending:
    """The planned array, in its room where it can be: as the build has stored it, or else of the medium's own bytes, be
    it together with the rest of the pack."""
    made = usable(medium, view, plan, spec)
    place = made.place if made else medium.place
    assert place is not None, f"{dataset.path}: position {position} was planned without bytes to read"
    data = _patiently(dataset, position, lambda: dataset.read(position, place))
    spent.bytes += len(data)
    spent.lap("read")
    try:
        if made is not None:
            stored = restore(data, made, view, plan)
            if room is None or room.dtype != stored.dtype:
                return stored
            np.copyto(room, stored)
            return room
        medium = replace(medium, data=data)
        if spec.image_decoder == "dali" and medium.kind == "image":
            return pending(medium, plan, view, spec)
        return realize(medium, plan, view, max_pixels=spec.max_pixels, fidelity=spec.decode, out=room)
    finally:
        spent.lap("decode")


def _decoded(medium: Media, max_pixels: int) -> Media:
    """An image with its pixels; video and audio as they are, for nobody has said which frames or samples to take."""
    if medium.kind != "image":
        return medium
    pixels = read_image(medium, max_pixels)
    return Decoded(**{field.name: getattr(medium, field.name) for field in fields(Media)}, pixels=pixels)


def _patiently(dataset: Dataset, position: int, read: Callable[[], T]) -> T:
    return patiently(read, f"{dataset.path}: position {position}")
