"""Keep of each text the lines that are sentences, and drop pages that are none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._texts import Roles, document, rewritten
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

ENDS = (".", "?", "!", '"', "”", "。", "？", "！", "」")
CUT = ("...", "…")
SENTENCE = re.compile(r"[.?!。？！]+(?=[\s\"”』」)]|$)")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]", re.IGNORECASE)
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


@register("step", "c4_quality")
class C4Quality(StepSpec):
    """The rules of C4 (Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", JMLR 2020, section 2.2, with the numbers of its published code). Of each text only lines are kept that
    end in a terminal punctuation mark and have enough words, mention neither JavaScript nor terms and cookies, and
    footnote marks are removed. A text with a curly bracket or "lorem ipsum", and one of too few sentences, is dropped
    as `c4_quality`. (C4's list of bad words is the step `blocklist`.)"""

    kind: Literal["c4_quality"] = "c4_quality"
    min_line_words: int = Field(5, ge=0)
    """Lines of fewer words are removed."""
    terminal_punctuation: bool = True
    """Remove lines that do not end like a sentence."""
    min_sentences: int = Field(3, ge=0)
    """Texts of fewer sentences, all of them together, are dropped."""
    no_curly_brackets: bool = True
    """Drop texts with `{`, which is code more often than prose."""
    roles: Roles = ()
    """The texts that are looked at, by role. Default: all."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        text = document(sample, self.roles)
        if self.no_curly_brackets and "{" in text:
            return Drop(reason=self.kind, detail="a curly bracket")
        if "lorem ipsum" in text.lower():
            return Drop(reason=self.kind, detail="lorem ipsum")
        changed = rewritten(sample, self.roles, self.clean, empty=self.kind)
        if isinstance(changed, Drop):
            return changed
        found = len(SENTENCE.findall(document(changed, self.roles)))
        if found < self.min_sentences:
            return Drop(reason=self.kind, detail=f"{found} sentences, fewer than {self.min_sentences}")
        return changed

    def clean(self, text: str) -> str:
        """The lines that are kept."""
        lines = (CITATION.sub("", line).strip() for line in text.splitlines())
        return "\n".join(line for line in lines if self._kept(line))

    def _kept(self, line: str) -> bool:
        if len(line.split()) < self.min_line_words:
            return False
        if self.terminal_punctuation and (not line.endswith(ENDS) or line.endswith(CUT)):
            return False
        lower = line.lower()
        return "javascript" not in lower and not any(phrase in lower for phrase in POLICY)
