"""Drop texts that repeat themselves: lines, paragraphs, and runs of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._texts import Roles, document
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "repetition")
class Repetition(StepSpec):
    """Drop texts of which too much is repeated: the repetition rules of Gopher (Rae et al., "Scaling Language Models:
    Methods, Analysis & Insights from Training Gopher", 2021, table A1), whose thresholds are the defaults. They were
    set for web pages; short captions repeat words by nature, and want higher ones or `min_words`.

    A line or paragraph is a duplicate if it occurred before. Characters are those of words between white space; those
    of runs of n words count once, however many runs they are in. The reason is `repetition`, and the detail names the
    rule.
    """

    kind: Literal["repetition"] = "repetition"
    max_lines: float | None = Field(0.30, ge=0, le=1)
    """Largest share of lines that are duplicates. Null switches a rule off."""
    max_paragraphs: float | None = Field(0.30, ge=0, le=1)
    """The same of paragraphs (parted by empty lines)."""
    max_line_chars: float | None = Field(0.20, ge=0, le=1)
    """Largest share of characters in duplicate lines."""
    max_paragraph_chars: float | None = Field(0.20, ge=0, le=1)
    """The same in duplicate paragraphs."""
    max_top: dict[int, float] = Field({2: 0.20, 3: 0.18, 4: 0.16})
    """By n: largest share of characters in the most frequent run of n words, if it occurs more than once."""
    max_duplicate: dict[int, float] = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10})
    """By n: largest share of characters in all runs of n words that occur more than once."""
    min_words: int = Field(0, ge=0)
    """Texts of fewer words pass."""
    roles: Roles = ()
    """The texts that are looked at, together, by role. Default: all."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        text = document(sample, self.roles)
        words = text.split()
        if not words or len(words) < self.min_words:
            return sample
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        shares = [
            ("lines", duplicates(lines)[0], self.max_lines),
            ("paragraphs", duplicates(paragraphs)[0], self.max_paragraphs),
            ("characters in duplicate lines", duplicates(lines)[1], self.max_line_chars),
            ("characters in duplicate paragraphs", duplicates(paragraphs)[1], self.max_paragraph_chars),
        ]
        for what, share, most in shares:
            if most is not None and share > most:
                return Drop(reason=self.kind, detail=f"{what}: {share:.3f} above {most:g}")
        for n, most in self.max_top.items():
            if (share := covered(words, n, top=True)) > most:
                return Drop(reason=self.kind, detail=f"most frequent {n} words: {share:.3f} above {most:g}")
        for n, most in self.max_duplicate.items():
            if (share := covered(words, n, top=False)) > most:
                return Drop(reason=self.kind, detail=f"repeated {n} words: {share:.3f} above {most:g}")
        return sample


def duplicates(pieces: Sequence[str]) -> tuple[float, float]:
    """The share of pieces that occurred before, and of characters in them.

    >>> duplicates(["a", "bbb", "a", "a"])
    (0.5, 0.3333333333333333)
    """
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]
    total = sum(map(len, pieces))
    return (len(again) / len(pieces), sum(map(len, again)) / total) if total else (0.0, 0.0)


def covered(words: Sequence[str], n: int, *, top: bool) -> float:
    """The share of characters in runs of n words that occur more than once: in all of them, or in the most frequent
    (`top`; the first of equals).

    >>> covered("a b a b c c".split(), 2, top=True), covered("a b c".split(), 2, top=False)
    (0.6666666666666666, 0.0)
    """
    runs = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    counts = Counter(runs)
    if top:
        wanted = {run for run, count in counts.most_common(1) if count > 1}
    else:
        wanted = {run for run, count in counts.items() if count > 1}
    if not wanted:
        return 0.0
    held = bytearray(len(words))
    for at, run in enumerate(runs):
        if run in wanted:
            held[at : at + n] = b"\1" * n
    return sum(len(word) for word, one in zip(words, held, strict=True) if one) / sum(map(len, words))
