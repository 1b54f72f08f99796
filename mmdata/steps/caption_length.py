"""Drop samples whose caption is missing, too short or too long."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

# Han (with its extensions), hiragana and katakana are written without spaces: each character counts as a word.
SPACELESS = re.compile(
    "[\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Combining marks and enclosing marks, joiners and other format characters, controls.
UNSEEN = frozenset({"Mn", "Me", "Cf", "Cc"})


@register("step", "caption_length")
class CaptionLength(StepSpec):
    """Drop samples without a caption, or with one whose length is outside the bounds. Of several captions, each
    must be within them.

    Characters are counted as a reader sees them, more or less: code points, without surrounding white space, combining
    marks, joiners and controls. A word is a run between white space that has a letter or digit; each Han, hiragana
    or katakana character is a word of its own.
    """

    kind: Literal["caption_length"] = "caption_length"
    min_chars: int = Field(1, ge=1)
    """Fewest characters."""
    max_chars: int | None = Field(None, ge=1)
    """Most characters. Default: no limit."""
    min_words: int = Field(0, ge=0)
    """Fewest words."""
    max_words: int | None = Field(None, ge=1)
    """Most words. Default: no limit."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high, unit in (
            (self.min_chars, self.max_chars, "chars"),
            (self.min_words, self.max_words, "words"),
        ):
            if high is not None and low > high:
                raise ValueError(f"min_{unit} {low} is more than max_{unit} {high}: nothing would be kept")
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        captions = [text.text for text in sample.texts if text.role == "caption"]
        if not captions:
            return Drop(reason=self.kind, detail="no caption")
        for caption in captions:
            for count, low, high, unit in (
                (characters(caption), self.min_chars, self.max_chars, "characters"),
                (words(caption), self.min_words, self.max_words, "words"),
            ):
                if count < low:
                    return Drop(reason=self.kind, detail=f"{count} {unit}, fewer than {low}")
                if high is not None and count > high:
                    return Drop(reason=self.kind, detail=f"{count} {unit}, more than {high}")
        return sample


def characters(text: str) -> int:
    """Characters that a reader sees.

    >>> characters("  cafe\\u0301 "), characters("猫と犬"), characters("\\u200b")
    (4, 3, 0)
    """
    if text.isascii() and text.isprintable():
        return len(text.strip())
    seen = (c for c in unicodedata.normalize("NFC", text.strip()) if unicodedata.category(c) not in UNSEEN)
    return sum(1 for _ in seen)


def words(text: str) -> int:
    """Words, each ideograph and kana being one.

    >>> words("A cat -- on the mat."), words("नमस्ते दुनिया"), words("猫と犬 in Tokyo"), words("!!! ...")
    (5, 2, 5, 0)
    """
    spaced, spaceless = SPACELESS.subn(" ", text)
    return spaceless + sum(any(c.isalnum() for c in run) for run in spaced.split())
