"""Segments and their media to one pack of arrays: borders, labels, positions, token types and joined media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmdata.families._family import Family, Segment
from mmdata.families._join import joined
from mmdata.families._positions import segment_positions
from mmdata.labels import IGNORE, cu_seqlens, labels, token_classes
from mmdata.types import Join, MediaPlan, Packed, Slot


def assemble(
    segments: Sequence[Segment],
    plans: Sequence[Sequence[MediaPlan]],
    arrays: Sequence[Sequence[np.ndarray]],
    family: Family,
    *,
    keys: tuple[str, ...] = (),
    masked: Mapping[int, str] | None = None,
    tasks: tuple[str, ...] = (),
    sample_weights: tuple[float, ...] = (),
    places: tuple[tuple[int, int], ...] = (),
    answers: tuple[str, ...] = (),
) -> Packed:
    """One row of `segments`; `plans[i]` and `arrays[i]` belong to the media of segment i, in the order of its slots.
    `masked` says why, by the number of a segment."""
    masked = masked or {}
    cu = cu_seqlens([len(segment.ids) for segment in segments])
    trained = [labels(segment.ids, segment.spans) for segment in segments]
    slots = tuple(
        Slot(kind=slot.kind, start=int(first) + slot.start, length=slot.length, tokens=slot.tokens)
        for first, segment in zip(cu, segments, strict=False)
        for slot in segment.slots
    )
    media, joins = _media(plans, arrays, family)
    packed = Packed(
        input_ids=np.concatenate([segment.ids for segment in segments]),
        labels=np.concatenate([values for values, _ in trained]),
        loss_weights=np.concatenate([weights for _, weights in trained]),
        position_ids=np.concatenate(
            [segment_positions(family, segment, planned) for segment, planned in zip(segments, plans, strict=True)],
            axis=-1,
        ),
        cu_seqlens=cu,
        slots=slots,
        media=media,
        joins=joins,
        token_arrays=_token_types(segments, family),
        token_classes=np.concatenate([token_classes(len(segment.ids), segment.spans) for segment in segments]),
        tasks=tasks,
        sample_weights=sample_weights,
        places=places,
        answers=answers,
        type_ids=(family.type_ids,) if family.type_ids else (),
        keys=keys,
        masked=tuple((keys[segment], reason) for segment, reason in masked.items()),
        masked_segments=tuple(masked),
    )
    assert (packed.labels[cu[:-1]] == IGNORE).all(), "a label crosses the border of its segment"
    return packed


def _media(
    plans: Sequence[Sequence[MediaPlan]], arrays: Sequence[Sequence[np.ndarray]], family: Family
) -> tuple[dict[str, np.ndarray], dict[str, Join]]:
    """The batch's arrays, in the order of the placeholders, whichever kind they stand for."""
    found: dict[str, list[np.ndarray]] = {}
    joins: dict[str, Join] = {}
    for planned, realized in zip(plans, arrays, strict=True):
        for plan, array in zip(planned, realized, strict=True):
            rule = family.media[plan.kind]
            found.setdefault(rule.key, []).append(_seen(array) if rule.join == "row" else array)
            joins[rule.key] = rule.join
            for name, companion in rule.companions(plan).items():
                found.setdefault(name, []).append(companion)
                joins[name] = "row" if rule.join == "row" else "concat"
        for name, companion in family.companions(planned).items():
            found.setdefault(name, []).append(companion)
            joins[name] = "concat"
    return {name: joined(values, joins[name]) for name, values in found.items()}, joins


SPECK = 2.0**-14
"""Smallest normal number of float16."""


def _seen(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, 3, H, W] of which none is all zeros: Idefics3 takes those for padding and drops them, and then has
    too few features for its placeholders. (A black tile is, where the mean to be subtracted is 0.)"""
    empty = [at for at, picture in enumerate(pictures) if not picture.any()]
    if empty:
        pictures = pictures.copy()
        pictures[empty, 0, 0, 0] = SPECK
    return pictures


def _token_types(segments: Sequence[Segment], family: Family) -> dict[str, np.ndarray]:
    """int64 [L]: the number of the kind of medium that a placeholder stands for, of `answer` for all from the first
    trained token of a segment on, and 0 for all else."""
    if family.type_ids is None:
        return {}
    pieces = []
    for segment in segments:
        types = np.zeros(len(segment.ids), np.int64)
        if "answer" in family.token_types and segment.spans:
            # What follows an answer too: a prompt that may look at it would see the answer through it.
            types[min(span.start for span in segment.spans) :] = family.token_types["answer"]
        for slot in segment.slots:
            if slot.kind not in family.token_types:
                continue
            placeholder = family.placeholder_id(family.media[slot.kind])
            place = slice(slot.start, slot.start + slot.length)
            types[place][segment.ids[place] == placeholder] = family.token_types[slot.kind]
        pieces.append(types)
    return {family.type_ids: np.concatenate(pieces)}
