"""Samples as rows of named columns, which is how Parquet and MDS hold them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.templates import messages
from mmdata.types import Media, MediaKind, Sample, Text

KINDS: tuple[MediaKind, ...] = get_args(MediaKind)
_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the samples of a dataset hold at most."""

    most: dict[MediaKind, int]
    """Media of each kind in one sample; a kind that no sample has is left out."""
    always: dict[MediaKind, bool]
    """Whether every sample has that many."""
    formats: dict[MediaKind, frozenset[str]]
    """Of all media of a kind."""


def layout(dataset: Dataset, positions: np.ndarray) -> Layout:
    """Look at the facts of all samples at these positions (int64 [N]); no media are read."""
    most: Counter[MediaKind] = Counter()
    least: dict[MediaKind, int] = {}
    formats: dict[MediaKind, set[str]] = {kind: set() for kind in KINDS}
    for start in range(0, len(positions), _AT_ONCE):
        for media in dataset.media_at(positions[start : start + _AT_ONCE]):
            counts = Counter(medium.kind for medium in media)
            for kind in KINDS:
                most[kind] = max(most[kind], counts[kind])
                least[kind] = min(least.get(kind, counts[kind]), counts[kind])
            for medium in media:
                formats[medium.kind].add(medium.format or "")
    kinds = [kind for kind in KINDS if most[kind]]
    return Layout(
        most={kind: most[kind] for kind in kinds},
        always={kind: least[kind] == most[kind] for kind in kinds},
        formats={kind: frozenset(formats[kind]) for kind in kinds},
    )


def rows(dataset: Dataset, positions: np.ndarray) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Each sample, and what it says besides its media: `key`, `text` (its first caption or document, or None),
    `messages` (in the order of its parts, where it is more than media and one text; else None) and `meta` (JSON).

    Raises DataError for damage and for media whose own bytes the dataset does not keep.
    """
    for position in positions.tolist():
        sample = dataset[position]
        for medium in sample.media:
            if medium.data is None:
                raise DataError("media_not_kept", f"{sample.key}: the bytes of its {medium.kind} were not kept")
        yield (
            sample,
            {
                "key": sample.key,
                "text": next((text.text for text in sample.texts if text.role in ("caption", "document")), None),
                "messages": None if _plain(sample) else [_message(each.role, each.items) for each in _turns(sample)],
                "meta": json.dumps(dict(sample.meta), ensure_ascii=False, sort_keys=True),
            },
        )


def _plain(sample: Sample) -> bool:
    texts = sample.texts
    return not texts or (len(texts) == 1 and texts[0].role == "caption")


def _turns(sample: Sample) -> list[Any]:
    return messages(sample.parts)


def _message(role: str, items: Sequence[Text | Media]) -> dict[str, Any]:
    return {
        "role": role,
        "content": [
            {"type": "text", "text": item.text} if isinstance(item, Text) else {"type": item.kind, "text": None}
            for item in items
        ],
    }
