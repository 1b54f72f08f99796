"""How good a short answer is: exact match, ANLS, relaxed and VQA accuracy, rates of errors, boxes. Pure, on texts."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Literal

from mmdata.boxes import BoxFormat
from mmtrain.box_metrics import box_accuracy, box_iou, pointing

Metric = Literal[
    "exact_match",
    "anls",
    "relaxed_accuracy",
    "vqa_accuracy",
    "cer",
    "wer",
    "box_iou",
    "box_accuracy",
    "pointing",
]
LOWER_IS_BETTER = ("cer", "wer")
ANLS_THRESHOLD = 0.5
TOLERANCE = 0.05
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def score(metric: Metric, answer: str, references: Sequence[str], coordinates: BoxFormat | None = None) -> float:
    """What an answer is worth beside the references, one at least. 0 to 1, the more the better; of `cer` and `wer` the
    rate of errors, from 0 on, the less the better. `coordinates` says how boxes are written, for those of boxes.

    >>> score("exact_match", "The cat.", ["cat"]), score("anls", "hallo", ["hello"]), score("cer", "hallo", ["hello"])
    (1.0, 0.8, 0.2)
    """
    if not references:
        raise ValueError(f"{metric}: no reference to compare with")
    if metric in OF_BOXES:
        if coordinates is None:
            raise ValueError(f"{metric}: nobody says how boxes are written")
        return OF_BOXES[metric](answer, references, coordinates)
    return METRICS[metric](answer, references)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and spare blanks (SQuAD's evaluation script).

    >>> normalised("The  Eiffel-Tower!")
    'eiffeltower'
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Whether it is any of the references, `normalised`."""
    return float(any(normalised(answer) == normalised(each) for each in references))


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one question (Biten et al., ICCV 2019, eq. 1): the best of
    1 - distance / longer length over the references, in lower case; under 0.5 it counts 0."""
    best = 0.0
    for each in references:
        a, b = " ".join(answer.lower().split()), " ".join(each.lower().split())
        longest = max(len(a), len(b))
        best = max(best, 1.0 - edits(a, b) / longest if longest else 1.0)
    return best if best >= ANLS_THRESHOLD else 0.0


def relaxed_accuracy(answer: str, references: Sequence[str]) -> float:
    """Whether a number is within 5 % of a reference, or a text equal to it in lower case (ChartQA, Masry et al.,
    2022, §5.1). `12%` is 0.12."""

    def one(reference: str) -> bool:
        wanted, got = _number(reference), _number(answer)
        if wanted is None or got is None:
            return answer.strip().lower() == reference.strip().lower()
        return abs(got - wanted) <= TOLERANCE * abs(wanted)

    return float(any(one(each) for each in references))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA's accuracy (Antol et al., ICCV 2015, §4): the mean, over every choice of all references but one, of
    min(1, how many of these are the answer / 3). Of one or two references, whether it is any. All are `normalised`."""
    if len(references) < 3:
        return exact_match(answer, references)
    same = [normalised(each) == normalised(answer) for each in references]
    return sum(min(1.0, (sum(same) - mine) / 3) for mine in same) / len(same)


def cer(answer: str, references: Sequence[str]) -> float:
    """Rate of wrong characters: edits over the characters of the reference, the best over the references."""
    return min(edits(answer.strip(), each.strip()) / max(1, len(each.strip())) for each in references)


def wer(answer: str, references: Sequence[str]) -> float:
    """Rate of wrong words: edits over the words of the reference, the best over the references."""
    return min(edits(answer.split(), each.split()) / max(1, len(each.split())) for each in references)


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions that make `b` of `a`.

    >>> edits("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _number(text: str) -> float | None:
    bare = text.strip().replace(",", "").lstrip("$€£")
    try:
        found = float(bare[:-1]) / 100 if bare.endswith("%") else float(bare)
    except ValueError:
        return None
    return found if math.isfinite(found) else None  # "nan" is a text, which equals itself


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "anls": anls,
    "relaxed_accuracy": relaxed_accuracy,
    "vqa_accuracy": vqa_accuracy,
    "cer": cer,
    "wer": wer,
}
OF_BOXES: dict[str, Callable[[str, Sequence[str], BoxFormat], float]] = {
    "box_iou": box_iou,
    "box_accuracy": box_accuracy,
    "pointing": pointing,
}
"""Those that read boxes (`mmtrain.box_metrics`)."""
