"""What becomes of a sample that is longer than a row: decided on integers, before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mmdata.errors import RunError

OverlongPolicy = Literal["drop", "truncate_text", "shrink_media", "error"]
Outcome = Literal["kept", "overlong", "truncated_text", "shrunk_media"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The decision: `outcome` is the slug to count it by. `text` tokens of text may stay (those at the front, or
    whatever the template makes of fewer), and medium m is planned by its choice `media[m]`. Of an `overlong` sample
    nothing stays."""

    outcome: Outcome
    text: int
    media: tuple[int, ...]
    tokens: int


def fit_overlong(
    text: int,
    media: Sequence[Sequence[int]],
    capacity: int,
    policy: OverlongPolicy,
    *,
    min_text: int = 1,
    name: str = "a sample",
) -> Fitted:
    """How a sample of `text` tokens of text and of media gets into `capacity` tokens.

    `media[m]` are the tokens of medium m, markers included, by each plan it may have, the wanted one first and then
    ever smaller ones (fewer tiles, fewer frames, less resolution). Media are whole or the sample is dropped: no policy
    leaves a medium without its placeholders or placeholders without their medium.

    - `drop`: left out.
    - `truncate_text`: media stay as wanted, text is cut to what is left, but to no fewer than `min_text` tokens.
    - `shrink_media`: text stays, the largest medium takes its next smaller plan (the last of several alike) until all
      fit; then any that fits after all takes the larger plan again, first come.
    - `error`: raises RunError, for runs in which nothing may be left out.

    >>> fit_overlong(300, [(576, 144), (2880, 1728, 576)], 2500, "shrink_media")
    Fitted(outcome='shrunk_media', text=300, media=(0, 2), tokens=1452)
    >>> fit_overlong(300, [(576, 144), (1728,)], 2500, "truncate_text")
    Fitted(outcome='truncated_text', text=196, media=(0, 0), tokens=2500)
    """
    _check(text, media, capacity)
    choice = [0] * len(media)
    tokens = text + sum(plans[0] for plans in media)
    if tokens <= capacity:
        return Fitted(outcome="kept", text=text, media=tuple(choice), tokens=tokens)
    if policy == "error":
        raise RunError(
            f"{name}: {tokens} tokens, {capacity} fit; allow it to be left out, cut or shrunk (overlong: ...)"
        )
    if policy == "truncate_text":
        left = capacity - (tokens - text)
        if left >= max(0, min_text):
            return Fitted(outcome="truncated_text", text=left, media=tuple(choice), tokens=capacity)
    if policy == "shrink_media" and text + sum(plans[-1] for plans in media) <= capacity:
        while tokens > capacity:
            at = max(
                (m for m, plans in enumerate(media) if choice[m] + 1 < len(plans)),
                key=lambda m: (media[m][choice[m]], m),
            )
            tokens += media[at][choice[at] + 1] - media[at][choice[at]]
            choice[at] += 1
        for m, plans in enumerate(media):
            while choice[m] and tokens + plans[choice[m] - 1] - plans[choice[m]] <= capacity:
                tokens += plans[choice[m] - 1] - plans[choice[m]]
                choice[m] -= 1
        return Fitted(outcome="shrunk_media", text=text, media=tuple(choice), tokens=tokens)
    return Fitted(outcome="overlong", text=0, media=(), tokens=0)


def _check(text: int, media: Sequence[Sequence[int]], capacity: int) -> None:
    if text < 0 or capacity < 1:
        raise ValueError(f"{text} tokens of text do not go into {capacity}")
    for plans in media:
        if not plans or min(plans) < 0 or any(a < b for a, b in pairwise(plans)):
            raise ValueError(f"the plans of a medium are one or more, each as large as the next or larger, not {plans}")
