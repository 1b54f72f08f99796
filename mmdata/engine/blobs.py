"""The bytes of a sample apart from the rest of it: they travel through shared memory and wait on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmdata.types import Media, Sample

Slot = tuple[int, int]
"""Number of a part, and OWN or the number of one of its `made`."""
OWN = -1


def take(sample: Sample) -> tuple[Sample, dict[Slot, bytes]]:
    """The sample without the bytes of its media and of what views made of them, and these by slot."""
    parts = list(sample.parts)
    blobs: dict[Slot, bytes] = {}
    for at, part in enumerate(parts):
        if not isinstance(part, Media):
            continue
        if part.data is None and not part.made:
            continue  # bytes that the steps left alone have stayed where they were
        if part.data is not None:
            blobs[at, OWN] = part.data
        for number, stored in enumerate(part.made):
            if stored.data is not None:
                blobs[at, number] = stored.data
        parts[at] = replace(part, data=None, made=tuple(replace(stored, data=None) for stored in part.made))
    return (replace(sample, parts=tuple(parts)) if blobs else sample), blobs


def give(sample: Sample, blobs: Mapping[Slot, bytes]) -> Sample:
    """The inverse of `take`; a slot that is not in `blobs` stays empty."""
    parts = list(sample.parts)
    for at, part in enumerate(parts):
        if isinstance(part, Media):
            made = tuple(replace(stored, data=blobs.get((at, number))) for number, stored in enumerate(part.made))
            parts[at] = replace(part, data=blobs.get((at, OWN)), made=made)
    return replace(sample, parts=tuple(parts))
