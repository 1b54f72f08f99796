"""Which tokens of a row see which media: each the one whose markers came last before it in its own sample."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from mmtrain.models.layers import Borders, KeyValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A picture, or all frames of a video: `first` and `last` are the places of its markers, `start` and `stop` those
    of its sample's first token and of the first token that does not see it any more; `tokens` are its own."""

    first: int
    last: int
    start: int
    stop: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The media of a batch in the order of their markers, their vectors `rows` [M, width], and who sees them.

    Segment s of `queries` (a row of the batch's tokens, without those that see nothing) sees segment s of `media`.
    `places` int64 [Q] says where the queries stand when the rows of the batch are laid after each other. `kept` are the
    keys and values of the media by layer, where later calls are to find them."""

    rows: torch.Tensor
    media: Borders
    places: torch.Tensor
    queries: Borders
    each: tuple[Medium, ...]
    kept: dict[int, KeyValues] | None = field(default=None, compare=False)

    def before(self) -> tuple[torch.Tensor, Borders]:
        """The tokens that each medium may see without knowing what comes after it: those of its sample up to its last
        marker. Their places, medium after medium, and how many each has."""
        spans = [(medium.start, medium.last + 1) for medium in self.each]
        return _between(spans, self.places.device)

    def after(self, rows: int, length: int) -> Sight | None:
        """What one more token of each of `rows` rows of `length` tokens sees: the last medium of its row, by the keys
        and values that were kept. None where no row has any."""
        last = {medium.first // length: number for number, medium in enumerate(self.each)}
        if not last or self.kept is None:
            return None
        chosen = [(row, last[row]) for row in range(rows) if row in last]
        device = self.places.device
        numbers = [number for _, number in chosen]
        return replace(
            self,
            rows=self.rows[:0],
            media=Borders.of([self.each[number].tokens for number in numbers], device),
            places=torch.tensor([row for row, _ in chosen], device=device),
            queries=Borders.of([1] * len(chosen), device),
            each=tuple(
                replace(self.each[number], first=row, last=row, start=row, stop=row + 1) for row, number in chosen
            ),
            kept={layer: _segments(kept, numbers) for layer, kept in self.kept.items()},
        )

    def stretched(self, length: int) -> Sight:
        """`after`, where each row goes on with `length` tokens."""
        if length == 1:
            return self
        spans = [(medium.first * length, (medium.first + 1) * length) for medium in self.each]
        places, queries = _between(spans, self.places.device)
        return replace(self, places=places, queries=queries)


def media_of(
    places: Sequence[int], tokens: Sequence[int], frames: Sequence[bool], cu_seqlens: Sequence[int]
) -> list[Medium]:
    """The media of pictures in the order of their markers: where each picture's marker stands, how many tokens it has,
    and whether it is a frame. Frames whose markers follow each other within a sample are one video.

    >>> found = media_of([1, 4, 5, 8], [2] * 4, [False, True, True, False], [0, 7, 9])
    >>> [(each.first, each.last, each.stop, each.tokens) for each in found]
    [(1, 1, 4, 2), (4, 5, 7, 4), (8, 8, 9, 2)]
    """
    found: list[Medium] = []
    frame_before = False
    for place, count, frame in zip(places, tokens, frames, strict=True):
        at = bisect.bisect_right(cu_seqlens, place)
        start, stop = cu_seqlens[at - 1], cu_seqlens[at]
        before = found[-1] if found else None
        if before is not None and before.start == start:
            if frame and frame_before and place == before.last + 1:
                found[-1] = replace(before, last=place, tokens=before.tokens + count)
                continue
            found[-1] = replace(before, stop=place)
        found.append(Medium(first=place, last=place, start=start, stop=stop, tokens=count))
        frame_before = frame
    return found


def sight(
    rows: torch.Tensor, places: torch.Tensor, tokens: Sequence[int], frames: torch.Tensor, cu_seqlens: torch.Tensor
) -> Sight:
    """Vectors [M, width] of pictures of so many `tokens` each, in any order, the `places` int64 [N] of their markers in
    the rows of a batch laid after each other, which of them are `frames` bool [N], and the borders of its samples."""
    standing, moving = places.tolist(), frames.tolist()
    order = sorted(range(len(standing)), key=standing.__getitem__)
    if order != list(range(len(order))):
        pieces = rows.split(list(tokens))
        rows = torch.cat([pieces[at] for at in order])
    each = media_of(
        [standing[at] for at in order],
        [tokens[at] for at in order],
        [moving[at] for at in order],
        cu_seqlens.tolist(),
    )
    spans = [(medium.first, medium.stop) for medium in each]
    where, queries = _between(spans, rows.device)
    media = Borders.of([medium.tokens for medium in each], rows.device)
    return Sight(rows=rows, media=media, places=where, queries=queries, each=tuple(each))


def _between(spans: Sequence[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, Borders]:
    places = torch.tensor([at for span in spans for at in range(*span)], dtype=torch.long, device=device)
    return places, Borders.of([stop - start for start, stop in spans], device)


def _segments(kept: KeyValues, numbers: Sequence[int]) -> KeyValues:
    ends = [0, *itertools.accumulate(kept.borders.lengths)]
    places = [slice(ends[number], ends[number + 1]) for number in numbers]
    return KeyValues(
        key=torch.cat([kept.key[place] for place in places]),
        value=torch.cat([kept.value[place] for place in places]),
        borders=Borders.of([kept.borders.lengths[number] for number in numbers], kept.key.device),
    )
