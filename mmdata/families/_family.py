"""What a family is: the views of its media, its placeholders, and the names of its batch arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.templates import MEDIUM, Encoded, Tokenizer
from mmdata.types import Media, MediaKind, MediaPlan, Slot, Span

if TYPE_CHECKING:
    import torch


class View(Protocol):
    """How one medium becomes tokens: integers from facts, then an array from pixels or samples."""

    def plan(self, facts: Media) -> MediaPlan: ...

    def realize(self, source: Any, plan: MediaPlan) -> torch.Tensor:
        """`source` is an upright image uint8 [H, W, 3], the planned frames of a video uint8 [T, 3, H, W], or a mono
        waveform float32 [samples] at 16 kHz; the answer has `plan.shape`."""
        ...

    def describe(self) -> dict[str, Any]: ...


Layout = tuple[str | int, ...]
"""What stands in a medium's place: text (its special tokens are honoured) and numbers of placeholders."""


def bare(plan: MediaPlan) -> Layout:
    """Nothing but the placeholders."""
    return (plan.tokens,)


def nothing(plan: MediaPlan) -> dict[str, np.ndarray]:
    """No companions."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRule:
    """How a family takes one kind of media.

    `placeholder` is the token that a feature vector replaces, `marker` what the family's chat templates write for the
    whole medium, `layout` what goes there instead. Realised arrays of a pack are joined under `key`: stacked (a new
    axis 0), concatenated (along axis 0), or stacked after filling axis 0 with zeros (`pad`). `companions` are the
    integer arrays that follow from the plan alone (`image_grid_thw`, `image_sizes`), each concatenated along axis 0.
    """

    view: View
    placeholder: str
    key: str
    join: Literal["stack", "concat", "pad"] = "stack"
    marker: str | None = None
    layout: Callable[[MediaPlan], Layout] = bare
    companions: Callable[[MediaPlan], dict[str, np.ndarray]] = nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table: a Hugging Face model family, bound to a tokenizer."""

    name: str
    tokenizer: Tokenizer
    media: Mapping[MediaKind, MediaRule]
    positions: Literal["plain", "mrope"] = "plain"

    def __post_init__(self) -> None:
        for rule in self.media.values():
            self.placeholder_id(rule)
        if self.tokenizer.eos_token_id is None:
            raise SpecError(f"family {self.name}: the tokenizer has no end-of-sequence token")

    def placeholder_id(self, rule: MediaRule) -> int:
        """Token id of a rule's placeholder. Raises SpecError where the tokenizer has no such special token."""
        found = self.tokenizer.convert_tokens_to_ids(rule.placeholder)
        if found not in self.tokenizer.all_special_ids:
            raise SpecError(f"family {self.name}: {rule.placeholder!r} is not a special token of the tokenizer")
        return int(found)

    def describe(self) -> dict[str, Any]:
        """Everything but the tokenizer, for digests and messages."""
        rules = {
            kind: {
                "view": rule.view.describe(),
                "placeholder": rule.placeholder,
                "key": rule.key,
                "join": rule.join,
                "layout": rule.layout.__qualname__,
            }
            for kind, rule in self.media.items()
        }
        return {"name": self.name, "media": rules, "positions": self.positions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One sample as token ids int32 [L], with its trained spans and the slots of its media."""

    ids: np.ndarray
    spans: tuple[Span, ...]
    slots: tuple[Slot, ...]


def plan_media(family: Family, media: Sequence[Media]) -> tuple[MediaPlan, ...]:
    """The plan of each medium, from facts alone. Raises DataError for a kind that the family does not take."""
    plans = []
    for medium in media:
        rule = family.media.get(medium.kind)
        if rule is None:
            raise DataError("media_kind", f"family {family.name} takes no {medium.kind}")
        plans.append(rule.view.plan(medium))
    return tuple(plans)


def media_ids(family: Family, plan: MediaPlan) -> list[int]:
    """The tokens that stand in a medium's place: `plan.tokens` placeholders among its family's markers."""
    rule = family.media[plan.kind]
    placeholder = family.placeholder_id(rule)
    ids: list[int] = []
    for piece in rule.layout(plan):
        if isinstance(piece, int):
            ids += [placeholder] * piece
        else:
            ids += family.tokenizer([piece], add_special_tokens=False, split_special_tokens=False)["input_ids"][0]
    return ids


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
    spans = tuple(Span(moved[span.start], moved[span.stop], span.weight) for span in encoded.spans)
    return Segment(ids=np.array(ids, np.int32), spans=spans, slots=tuple(slots))


def filler(family: Family, tokens: int, plans: Sequence[MediaPlan]) -> Segment:
    """A segment of the planned length and media that trains nothing, in place of a sample that cannot be read."""
    assert family.tokenizer.eos_token_id is not None, family.name
    encoded = Encoded(ids=[MEDIUM] * len(plans), spans=(), media=())
    segment = expand(family, encoded, plans)
    rest = np.full(tokens - len(segment.ids), family.tokenizer.eos_token_id, np.int32)
    return Segment(ids=np.concatenate([segment.ids, rest]), spans=(), slots=segment.slots)
