"""Samples with two answers to one prompt, the chosen and the rejected one: as conversations with one answer each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmdata.errors import DataError
from mmdata.types import Media, Sample, Text

ANSWERS = ("chosen", "rejected")
"""The roles of the two answers; every other part of such a sample belongs to the prompt."""


def is_pair(sample: Sample) -> bool:
    """Whether any of its texts is one of two answers."""
    return any(text.role in ANSWERS for text in sample.texts)


def conversations(sample: Sample, *, both: bool) -> list[Sample]:
    """The prompt with the chosen answer as the assistant's, and with `both` the prompt with the rejected one; media are
    the same objects in each. With `both`, nothing of the prompt is trained: answers are compared, not what they share.
    Raises DataError (`pair_incomplete`) where there are not two.

    >>> parts = (Text(text="2 + 2?", role="user"), *(Text(text=t, role=r) for t, r in zip("45", ANSWERS)))
    >>> pair = Sample(key="a", parts=parts, origin=None)
    >>> [[text.text for text in each.texts] for each in conversations(pair, both=True)]
    [['2 + 2?', '4'], ['2 + 2?', '5']]
    """
    found = {text.role for text in sample.texts if text.role in ANSWERS and text.text}
    if missing := [role for role in ANSWERS if role not in found]:
        raise DataError("pair_incomplete", f"{sample.key}: no {missing[0]} answer beside the other")
    return [_with(sample, role, both) for role in ANSWERS[: 1 + both]]


def _with(sample: Sample, answer: str, both: bool) -> Sample:
    parts: list[Text | Media] = []
    for part in sample.parts:
        if not isinstance(part, Text):
            parts.append(part)
        elif part.role == answer:
            parts.append(replace(part, role="assistant"))
        elif part.role not in ANSWERS:
            parts.append(replace(part, train=False) if both and part.train else part)
    return replace(sample, parts=tuple(parts))


def expanded(samples: Sequence[Sample], *, both: bool) -> list[list[Sample] | DataError]:
    """What each sample is encoded as: itself, its conversations, or why it has none."""
    found: list[list[Sample] | DataError] = []
    for sample in samples:
        try:
            found.append(conversations(sample, both=both) if is_pair(sample) else [sample])
        except DataError as error:
            found.append(error)
    return found
