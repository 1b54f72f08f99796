"""What a family is: the views of its media, what stands in their places, and the names of its batch arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.templates import MEDIUM, Encoded, Tokenizer
from mmdata.types import Join, Media, MediaKind, MediaPlan, Slot, Span

if TYPE_CHECKING:
    import torch


class View(Protocol):
    """How one medium becomes tokens: integers from facts, then an array from pixels or samples.

    A view with an attribute `draws` that is true takes a keyword `rng` in `plan`: a generator that belongs to one
    medium of one sample in one epoch, or None where nothing is to be left to chance. One whose `takes_out` is true
    takes a keyword `out` in `realize`: a contiguous tensor of `plan.shape` and the view's `dtype` that the answer goes
    into.
    """

    def plan(self, facts: Media) -> MediaPlan: ...

    def realize(self, source: Any, plan: MediaPlan) -> torch.Tensor:
        """`source` is an upright image uint8 [H, W, 3], the planned frames of a video uint8 [T, 3, H, W], or a mono
        waveform float32 [samples] at 16 kHz, or the view's `sample_rate`; the answer has `plan.shape`."""
        ...

    def describe(self) -> dict[str, Any]: ...


Layout = tuple[str | int, ...]
"""What stands in a medium's place: text (its special tokens are honoured) and numbers of placeholders."""
Arrays = dict[str, np.ndarray]
Positions = Literal["plain", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni"]


def bare(plan: MediaPlan) -> Layout:
    """Nothing but the placeholders."""
    return (plan.tokens,)


def nothing(_: Any) -> Arrays:
    """No companions."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRule:
    """How a family takes one kind of media.

    `placeholder` is the token that a feature vector replaces; None for a model that attends to the features across
    (an encoder-decoder) and has nothing in their place. `marker` is what the family's chat templates write for the
    whole medium (default: the placeholder), `layout` what goes there instead, between the constant texts `before` and
    `after`, which are tokenised with the text beside them. The realised arrays of a pack are joined under `key` as
    `join` says. `companions` are the integer arrays that follow from a plan alone (`image_grid_thw`,
    `image_sizes`), with the axis along which those of several media are concatenated. `several` is the view of a sample
    that holds more than one medium of this kind, where the family treats that case apart.
    """

    view: View
    key: str
    placeholder: str | None
    join: Join = "stack"
    marker: str | None = None
    layout: Callable[[MediaPlan], Layout] = bare
    before: str = ""
    after: str = ""
    companions: Callable[[MediaPlan], Arrays] = nothing
    several: View | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table: a Hugging Face model family, bound to a tokenizer.

    `positions` names the rule of `position_ids`, `first_position` the number it starts at, `mrope` where M-RoPE goes on
    after a medium (`mmdata.views.mrope`), which numbers blocks of `merge` x `merge` patches and the time of a video by
    `positions_per_second` (None: as published). `type_ids` names a batch array int64 [1, T] that tells kinds of tokens
    apart: `token_types` says which number a kind has. `companions` are integer arrays that follow from all plans of a
    sample. `packs` is False where several samples cannot share a row.
    """

    name: str
    tokenizer: Tokenizer
    media: Mapping[MediaKind, MediaRule]
    positions: Positions = "plain"
    first_position: int = 0
    merge: int = 2
    positions_per_second: float | None = None
    mrope: Literal["max", "transformers"] = "max"
    type_ids: str | None = None
    token_types: Mapping[str, int] = field(default_factory=dict)
    companions: Callable[[Sequence[MediaPlan]], Arrays] = nothing
    packs: bool = True

    def __post_init__(self) -> None:
        for rule in self.media.values():
            self.placeholder_id(rule)
        if self.tokenizer.eos_token_id is None:
            raise SpecError(f"family {self.name}: the tokenizer has no end-of-sequence token")

    def placeholder_id(self, rule: MediaRule) -> int | None:
        """Token id of a rule's placeholder. Raises SpecError where the tokenizer has no such special token."""
        if rule.placeholder is None:
            return None
        found = self.tokenizer.convert_tokens_to_ids(rule.placeholder)
        if found not in self.tokenizer.all_special_ids:
            raise SpecError(f"family {self.name}: {rule.placeholder!r} is not a special token of the tokenizer")
        return int(found)

    @property
    def markers(self) -> dict[MediaKind, str]:
        """What a chat template of this family writes for each kind of media."""
        found = {kind: rule.marker or rule.placeholder for kind, rule in self.media.items()}
        return {kind: marker for kind, marker in found.items() if marker is not None}

    @property
    def around(self) -> dict[MediaKind, tuple[str, str]]:
        """What a template is told of the text before and after each kind of media."""
        return {kind: (rule.before, rule.after) for kind, rule in self.media.items() if rule.before or rule.after}

    def describe(self) -> dict[str, Any]:
        """Everything but the tokenizer, for digests and messages."""
        rules = {
            kind: {
                "view": rule.view.describe(),
                "several": rule.several.describe() if rule.several else None,
                "placeholder": rule.placeholder,
                "key": rule.key,
                "join": rule.join,
                "layout": rule.layout.__qualname__,
            }
            for kind, rule in self.media.items()
        }
        per_second = [self.positions_per_second] if self.positions_per_second else []
        return {
            "name": self.name,
            "media": rules,
            "positions": [self.positions, self.first_position, self.mrope, *per_second],
            "type_ids": [self.type_ids, dict(self.token_types)],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One sample as token ids int32 [L], with its trained spans and the slots of its media."""

    ids: np.ndarray
    spans: tuple[Span, ...]
    slots: tuple[Slot, ...]
    breaks: tuple[int, ...] = ()
    """Where it begins anew: a sample of two answers is several segments in one, until it is `parted`."""


def views(family: Family, media: Sequence[Media]) -> tuple[View, ...]:
    """The view of each medium of a sample. Raises DataError for a kind that the family does not take."""
    chosen = []
    for medium in media:
        rule = family.media.get(medium.kind)
        if rule is None:
            raise DataError("media_kind", f"family {family.name} takes no {medium.kind}")
        alone = rule.several is None or sum(other.kind == medium.kind for other in media) == 1
        chosen.append(rule.view if alone or rule.several is None else rule.several)
    return tuple(chosen)


def plan_media(
    family: Family, media: Sequence[Media], draw: Callable[[int], np.random.Generator] | None = None
) -> tuple[MediaPlan, ...]:
    """The plan of each medium of a sample, from facts alone; `draw(i)` is the generator of medium i. Raises DataError
    for a kind that the family does not take, and as the views do."""
    plans = []
    for at, (view, medium) in enumerate(zip(views(family, media), media, strict=True)):
        chance: Any = {"rng": draw(at)} if draw is not None and getattr(view, "draws", False) else {}
        plans.append(view.plan(medium, **chance))
    return tuple(plans)


def media_ids(family: Family, plan: MediaPlan) -> list[int]:
    """The tokens that stand in a medium's place: `plan.tokens` placeholders among its family's markers."""
    rule = family.media[plan.kind]
    placeholder = family.placeholder_id(rule)
    if placeholder is None:
        return []
    ids: list[int] = []
    for piece in rule.layout(plan):
        ids += (
            (placeholder,) * piece if isinstance(piece, int) else _marker_ids(cast(Hashable, family.tokenizer), piece)
        )
    return ids


def media_length(family: Family, plan: MediaPlan) -> int:
    """The number of `media_ids`, without making them."""
    rule = family.media[plan.kind]
    if rule.placeholder is None:
        return 0
    placeholders = markers = 0
    for piece in rule.layout(plan):
        if isinstance(piece, int):
            placeholders += piece
        else:
            markers += len(_marker_ids(cast(Hashable, family.tokenizer), piece))
    assert placeholders == plan.tokens, f"family {family.name}: {placeholders} placeholders for {plan.tokens} features"
    return placeholders + markers


@functools.lru_cache(maxsize=65_536)
def _marker_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer([text], add_special_tokens=False, split_special_tokens=False)["input_ids"][0])


def expand(family: Family, encoded: Encoded, plans: Sequence[MediaPlan]) -> Segment:
    """Replace each medium by its placeholders and markers, and move the spans along.

    [1, MEDIUM, 5, 6, 2], span 2..5, a plan of 3 tokens -> [1, 9, 9, 9, 5, 6, 2], span 4..7, slot at 1.
    """
    ids: list[int] = []
    slots: list[Slot] = []
    moved = [0] * (len(encoded.ids) + 1)  # where each old index lies now
    remaining = iter(plans)
    for at, token in enumerate(encoded.ids):
        moved[at] = len(ids)
        if token == MEDIUM:
            plan = next(remaining)
            medium = media_ids(family, plan)
            slots.append(Slot(kind=plan.kind, start=len(ids), length=len(medium), tokens=plan.tokens))
            ids += medium
        else:
            ids.append(token)
    moved[-1] = len(ids)
    spans = tuple(replace(span, start=moved[span.start], stop=moved[span.stop]) for span in encoded.spans)
    breaks = tuple(moved[at] for at in encoded.breaks)
    return Segment(ids=np.array(ids, np.int32), spans=spans, slots=tuple(slots), breaks=breaks)


def parted(segment: Segment) -> list[Segment]:
    """The segments that lie between the breaks of one, each with its own spans and slots."""
    borders = [0, *segment.breaks, len(segment.ids)]
    return [
        Segment(
            ids=segment.ids[start:stop],
            spans=tuple(
                replace(span, start=span.start - start, stop=span.stop - start)
                for span in segment.spans
                if start <= span.start < stop
            ),
            slots=tuple(
                replace(slot, start=slot.start - start) for slot in segment.slots if start <= slot.start < stop
            ),
        )
        for start, stop in pairwise(borders)
    ]


def filler(family: Family, tokens: int, plans: Sequence[MediaPlan]) -> Segment:
    """A segment of the planned length and media that trains nothing, in place of a sample that cannot be read."""
    assert family.tokenizer.eos_token_id is not None, family.name
    encoded = Encoded(ids=[MEDIUM] * len(plans), spans=(), media=())
    segment = expand(family, encoded, plans)
    rest = np.full(tokens - len(segment.ids), family.tokenizer.eos_token_id, np.int32)
    return Segment(ids=np.concatenate([segment.ids, rest]), spans=(), slots=segment.slots)
