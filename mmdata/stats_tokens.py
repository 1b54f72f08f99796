"""Lengths in tokens of model families: of media alone from facts, and of whole samples with a family's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdata.errors import DataError
from mmdata.families import Family, Views, family_views
from mmdata.families._family import media_length, plan_media
from mmdata.shards.columns import MediaFacts
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Index
from mmdata.shards.table import ShardEntry
from mmdata.tally import Tally, lengths, sample_keys
from mmdata.templates import Template, encode
from mmdata.types import Media

TOKEN_SAMPLE = 1_000
"""Samples whose tokens are counted; with no more than that, all."""
AT_ONCE = 100
"""Samples that are in memory at once."""
MOST_TOKENS = 1 << 20
FAMILIES: Mapping[str, frozenset[str]] = {
    "llava": frozenset({"image"}),
    "llava_next": frozenset({"image"}),
    "internvl": frozenset({"image", "video"}),
    "qwen2_5_vl": frozenset({"image", "video"}),
    "qwen2_5_omni": frozenset({"image", "video", "audio"}),
    "whisper": frozenset({"audio"}),
}
"""Families that are asked, which differ in how they count, and what they take; others are left out."""


class MediaTokens:
    """By family: the tokens that the media of a sample come to, planned from facts (no medium is read, no tokenizer is
    needed); and why samples cannot be planned. Text counts nothing here."""

    def __init__(self, samples: int, seed: int) -> None:
        self._positions = np.asarray(sample_keys(samples, TOKEN_SAMPLE, seed, "tokens"), np.int64)
        self._views: dict[str, Views] = {}
        self._tallies: dict[str, Tally] = {}
        self._left_out: dict[str, Counter[str]] = {}
        self._held: set[str] = set()
        self._samples = 0

    def add(self, index: Index, entry: ShardEntry) -> None:
        """Count the drawn samples of one unit."""
        first, last = np.searchsorted(self._positions, (entry.first, entry.first + entry.rows))
        rows = self._positions[first:last] - entry.first
        if not len(rows):
            return
        told = MediaFacts(index, {}).of(rows)
        found = [_media(index, row) if media is None else media for row, media in zip(rows, told, strict=True)]
        samples = [media for media in found if media]
        self._samples += len(samples)
        self._held |= {medium.kind for media in samples for medium in media}
        for name, taken in FAMILIES.items():
            if not taken & self._held:
                continue
            if name not in self._views:
                self._views[name] = family_views(name)
                self._tallies[name], self._left_out[name] = _tally(), Counter()
            planned = _planned(self._views[name], samples)
            self._tallies[name].add(np.array([tokens for tokens in planned if isinstance(tokens, int)], np.float64))
            self._left_out[name].update(reason for reason in planned if isinstance(reason, str))

    def to_json(self) -> dict[str, Any]:
        """Of the families that can take a sample: how many were asked about, and the histogram."""
        return {
            name: _told(self._samples, tally, self._left_out[name])
            for name, tally in self._tallies.items()
            if self._left_out[name].total() < self._samples
        }


def _media(index: Index, row: int) -> tuple[Media, ...]:
    """The media of a row that are more than facts that many share."""
    parts = (part for part in index.row(int(row)).parts if part.kind in ("image", "video", "audio"))
    return tuple(part.to_part(None) for part in parts)  # type: ignore[misc]


def sample_tokens(dataset: Dataset, family: Family, template: Template, seed: int) -> dict[str, Any]:
    """A histogram of the tokens of whole samples, text, markers and media, and `text`, one of what is not media; as
    a stream with this family and template gives them before packing.

    Raises DataError where a text has changed since the build."""
    positions = sample_keys(len(dataset), TOKEN_SAMPLE, seed, "tokens")
    whole, texts = _tally(), _tally()
    left_out: Counter[str] = Counter()
    for start in range(0, len(positions), AT_ONCE):
        samples = [dataset.sample(position, media=False) for position in positions[start : start + AT_ONCE]]
        found: list[tuple[int, int]] = []
        for each in encode(samples, family.tokenizer, template):
            if isinstance(each, DataError):
                left_out[each.reason] += 1
                continue
            text = len(each.ids) - len(each.media)
            media = _attempt(lambda each=each: sum(media_length(family, p) for p in plan_media(family, each.media)))  # type: ignore[misc]
            if isinstance(media, str):
                left_out[media] += 1
            else:
                found.append((text, text + media))
        texts.add(np.array([text for text, _ in found], np.float64))
        whole.add(np.array([tokens for _, tokens in found], np.float64))
    return {**_told(len(positions), whole, left_out), "text": texts.to_json()}


def _planned(views: Views, samples: Sequence[tuple[Media, ...]]) -> list[int | str]:
    """Tokens of the media of each sample, or the reason why they cannot be planned."""
    known: dict[int, int | str] = {}  # samples of equal facts are one object
    for media in samples:
        if id(media) not in known:
            known[id(media)] = _attempt(
                lambda media=media: sum(  # type: ignore[misc]
                    view.plan(medium).tokens for view, medium in zip(views(media), media, strict=True)
                )
            )
    return [known[id(media)] for media in samples]


def _attempt(count: Callable[[], int]) -> int | str:
    try:
        return count()
    except DataError as error:
        return error.reason


def _tally() -> Tally:
    return Tally("tokens", lengths(MOST_TOKENS))


def _told(samples: int, tally: Tally, left_out: Counter[str]) -> dict[str, Any]:
    return {"samples": samples, "left_out": dict(sorted(left_out.items())), "histogram": tally.to_json()}
