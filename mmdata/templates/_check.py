"""The oracle of every mask: the tokens that are trained must say what the messages say, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdata.errors import DataError
from mmdata.templates._codec import Codec


@dataclass(frozen=True, slots=True)
class Answer:
    """Trained characters of one sample, and the ids that were given to them."""

    sample: int
    text: str
    ids: list[int]


def check(answers: Sequence[Answer], codec: Codec) -> dict[int, DataError]:
    """Decode every trained stretch and compare it with its text; the samples in which one differs, by number.

    A token may reach over a border (": " and "a" are one token in some vocabularies), so the first and the last token
    may hold characters of the template besides. Tokenizers whose decoding does not give back what they were given,
    and answers with characters that a vocabulary does not know, cannot be checked this way.
    """
    if not codec.faithful:
        return {}
    wrong: dict[int, DataError] = {}
    decoded = codec.decode([answer.ids for answer in answers])
    for answer, text in zip(answers, decoded, strict=True):
        if codec.unknown in answer.ids:
            continue  # Its text cannot be had back.
        if answer.sample not in wrong and not _says(answer, text, codec):
            detail = f"trained tokens say {text[:80]!r}, the message {answer.text[:80]!r}"
            wrong[answer.sample] = DataError("label_mismatch", detail)
    return wrong


def _says(answer: Answer, decoded: str, codec: Codec) -> bool:
    if codec.same(decoded, answer.text):
        return True
    wanted = codec.normal(answer.text).strip(" ")
    at = decoded.find(wanted)
    if at < 0:
        return False
    before, after = at, len(decoded.rstrip(" ")) - at - len(wanted)
    first, last = codec.decode([answer.ids[:1], answer.ids[-1:]])
    return before < max(1, len(first)) and after < max(1, len(last))
