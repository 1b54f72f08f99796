"""Where the boxes of a batch's answers stand among its tokens, and which boxes they are."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmdata.boxes import BoxFormat, boxes_at
from mmdata.labels import IGNORE
from mmtrain.rows import borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A box of an answer: the number of its segment, the token whose hidden state predicts the first token of the box
    (so it has seen none of the box), that first token, both in the rows laid after each other, and the box in shares of
    the sides, left, top, right, bottom, as the text writes it."""

    segment: int
    query: int
    first: int
    box: tuple[float, float, float, float]


def locate(batch: Mapping[str, Any], decode: Callable[[int], str], coordinates: BoxFormat) -> list[Place]:
    """The boxes of what is trained, in order; `decode` says what one token is as a text. A box of which any token is
    not trained is passed over, for it is given, not asked for."""
    ids, labels = batch["input_ids"].flatten().tolist(), batch["labels"].flatten()
    trained = (labels != IGNORE).tolist()
    found = []
    for segment, (start, stop) in enumerate(itertools.pairwise(borders(batch).tolist())):
        at = start
        for learned, group in itertools.groupby(range(start, stop), key=trained.__getitem__):
            count = len(list(group))
            if learned:
                found += _in_answer(ids, at, at + count, segment, decode, coordinates)
            at += count
    return found


def _in_answer(
    ids: list[int], start: int, stop: int, segment: int, decode: Callable[[int], str], coordinates: BoxFormat
) -> list[Place]:
    pieces = [decode(token) for token in ids[start:stop]]
    ends = list(itertools.accumulate(map(len, pieces)))
    places = []
    for first, _, box in boxes_at("".join(pieces), (1, 1), coordinates):
        token = start + bisect.bisect_right(ends, first)
        places.append(Place(segment=segment, query=token - 1, first=token, box=box))
    return places


def tensor_of(places: list[Place], like: torch.Tensor) -> torch.Tensor:
    """Their boxes, float32 [N, 4] on the device of `like`."""
    return torch.tensor([place.box for place in places], dtype=torch.float32, device=like.device).view(-1, 4)
