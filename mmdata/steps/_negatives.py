"""What is not in a picture, to ask about all the same: phrases that are near, phrases that are far, empty places."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mmdata.spec import Model
from mmdata.steps._boxes import Box, Size
from mmdata.steps._minhash import words

if TYPE_CHECKING:
    import numpy as np

Negative = Literal["hard", "random", "background"]
NEGATIVES: tuple[Negative, ...] = ("hard", "random", "background")
TRIES = 50
"""Draws of an empty place before there is none."""


class Negatives(Model):
    """Questions about what is not there, so that a model learns to say so. Which kind is drawn goes by the three
    ratios, among the kinds that a picture has anything for."""

    share: float = Field(0.2, gt=0, lt=1)
    """Chance that a question is one of these."""
    hard: float = Field(1.0, ge=0)
    """Phrases that are not in the picture and share a word with one that is (`a red square` beside `a red circle`)."""
    random: float = Field(1.0, ge=0)
    """Phrases that are not in the picture and share no word with any that is."""
    background: float = Field(0.0, ge=0)
    """Boxes of the size of the picture's own that touch none of them; of the task `referring`."""
    phrases: tuple[str, ...] = ()
    """What may be asked for: all names that the data has, best. A picture's own are left out, those of crowds too, and
    what is part of them (`cat` beside `black cat`)."""
    answer: str = Field("There is none.", min_length=1)
    """What is answered where a phrase is not there;"""
    nothing: str = Field("Nothing.", min_length=1)
    """and where a place is empty."""

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.hard + self.random + self.background:
            raise ValueError("hard, random and background are all 0; leave `negatives` out instead")
        if self.hard + self.random and not self.phrases:
            raise ValueError("hard and random draw from `phrases`; name them, or set both to 0")
        return self

    @property
    def ratios(self) -> dict[Negative, float]:
        """By kind."""
        return {"hard": self.hard, "random": self.random, "background": self.background}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture's named boxes and its size (height, width); and the `names` and boxes (`taken`) of all that is known to
    be there, crowds among them, which nothing is asked about."""

    found: tuple[tuple[str, Box], ...]
    size: Size
    names: tuple[str, ...]
    taken: tuple[Box, ...]


def drawn(
    spec: Negatives, scene: Scene, wanted: Collection[Negative], used: Collection[str], rng: np.random.Generator
) -> tuple[Negative, str | Box] | None:
    """A kind among those `wanted`, and the phrase or the box of which it is; no phrase that was `used`. None where the
    picture has nothing for any."""
    offered: dict[Negative, Sequence[str | Box]] = {}
    near, far = absent(spec.phrases, scene.names)
    for kind, phrases in (("hard", near), ("random", far)):
        offered[kind] = [phrase for phrase in phrases if phrase not in used]  # type: ignore[index]
    if "background" in wanted and spec.background and (box := empty(scene, rng)) is not None:
        offered["background"] = [box]
    ratios = [(kind, spec.ratios[kind]) for kind in NEGATIVES if kind in wanted and offered.get(kind)]
    ratios = [(kind, ratio) for kind, ratio in ratios if ratio]
    if not ratios:
        return None
    upto = list(accumulate(ratio for _, ratio in ratios))
    kind = ratios[min(bisect_right(upto, float(rng.random()) * upto[-1]), len(ratios) - 1)][0]
    return kind, offered[kind][int(rng.integers(len(offered[kind])))]


def absent(phrases: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The phrases that none of the names says: those that share a word with one, and those that share none. Where a
    name has all words of a phrase and more, what it names is there: beside `a black cat` nobody may deny the cat.

    >>> absent(["red circle", "red square", "Blue square", "dog", "circle"], ["the red circle"])
    (['red square'], ['Blue square', 'dog'])
    """
    there = [_words(name) for name in names]
    said = set[str]().union(*there)
    missing = [phrase for phrase in phrases if not any(_words(phrase) <= name for name in there)]
    near = [phrase for phrase in missing if said & _words(phrase)]
    return near, [phrase for phrase in missing if phrase not in near]


STOPWORDS = frozenset({"a", "an", "the", "of", "in", "on", "at", "and", "with", "to"})
"""Words that make no two phrases alike."""


def empty(scene: Scene, rng: np.random.Generator) -> Box | None:
    """A box, as large as one of the picture's, that touches nothing; None where none of so many draws does."""
    height, width = scene.size
    for _ in range(TRIES):
        left, top, right, bottom = scene.found[int(rng.integers(len(scene.found)))][1]
        across, down = right - left, bottom - top
        x, y = float(rng.uniform(0, max(width - across, 0))), float(rng.uniform(0, max(height - down, 0)))
        box = (x, y, min(x + across, width), min(y + down, height))
        if all(_apart(box, other) for other in scene.taken):
            return box
    return None


def _apart(a: Box, b: Box) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def _words(phrase: str) -> set[str]:
    return set(words(phrase)) - STOPWORDS
