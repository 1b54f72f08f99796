"""Drop texts that are not prose: too short, few real words, symbols, bullets, cut lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._texts import Roles, document
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "-", "*", "‣", "◦", "–", "·")
ELLIPSES = ("...", "…")


@register("step", "gopher_quality")
class GopherQuality(StepSpec):
    """Drop texts that the quality rules of Gopher reject (Rae et al. 2021, appendix A.1.1), whose numbers are the
    defaults. They were set for English web pages. The reason is `gopher_quality`, and the detail names the rule. Words
    are what stands between white space."""

    kind: Literal["gopher_quality"] = "gopher_quality"
    min_words: int = Field(50, ge=0)
    """Fewest words; a text without any is dropped in any case."""
    max_words: int = Field(100_000, ge=1)
    min_mean_length: float = Field(3.0, ge=0)
    """Least mean length of a word, in characters."""
    max_mean_length: float = Field(10.0, gt=0)
    max_symbols: float = Field(0.1, ge=0)
    """Most hash signs, and most ellipses, per word."""
    max_bullets: float = Field(0.9, ge=0, le=1)
    """Largest share of lines that begin with a bullet."""
    max_ellipses: float = Field(0.3, ge=0, le=1)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic: float = Field(0.8, ge=0, le=1)
    """Least share of words with a letter."""
    min_stop_words: int = Field(2, ge=0)
    """How many different `stop_words` must occur; 0 for other languages, or name theirs."""
    stop_words: tuple[str, ...] = STOP_WORDS
    roles: Roles = ()
    """The texts that are looked at, together, by role. Default: all."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        text = document(sample, self.roles)
        words = text.split()
        if not words:
            return Drop(reason=self.kind, detail="no words")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        plain = {re.sub(r"\W+", "", word).lower() for word in words}
        mean = sum(map(len, words)) / len(words)
        rules = (
            ("words", len(words), self.min_words, self.max_words),
            ("mean length of words", mean, self.min_mean_length, self.max_mean_length),
            ("hash signs per word", text.count("#") / len(words), 0, self.max_symbols),
            ("ellipses per word", _count(text) / len(words), 0, self.max_symbols),
            ("lines with bullets", sum(line.startswith(BULLETS) for line in lines) / len(lines), 0, self.max_bullets),
            ("cut lines", sum(line.endswith(ELLIPSES) for line in lines) / len(lines), 0, self.max_ellipses),
            (
                "words with letters",
                sum(any(map(str.isalpha, w)) for w in words) / len(words),
                self.min_alphabetic,
                None,
            ),
            ("stop words", len(plain.intersection(self.stop_words)), self.min_stop_words, None),
        )
        for what, value, low, high in rules:
            if value < low:
                return Drop(reason=self.kind, detail=f"{what}: {_shown(value)} below {_shown(low)}")
            if high is not None and value > high:
                return Drop(reason=self.kind, detail=f"{what}: {_shown(value)} above {_shown(high)}")
        return sample


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _count(text: str) -> int:
    return sum(text.count(ellipsis) for ellipsis in ELLIPSES)
