"""Repair the damage that captions from the web have: mojibake, entities, control characters, markup."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import ftfy

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample, Text

if TYPE_CHECKING:
    from mmdata.decode.work import Work

# Only damage is repaired: curly quotes, ligatures and full-width characters are what somebody wrote.
REPAIR = ftfy.TextFixerConfig(
    unescape_html=True,
    uncurl_quotes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    normalization="NFC",
    explain=False,
)
ROUNDS = 8  # A repair can lay open another (`&amp;lt;b&gt;`); so many layers are peeled.

# Elements of HTML that stand in captions. Others in angle brackets (`<image>`, `<unk>`, `<3`) are text.
BLOCKS = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|"
    "form|h[1-6]|head|header|hr|html|iframe|input|label|li|main|nav|ol|option|picture|pre|section|select|source|"
    "table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video"
)
INLINE = (
    "abbr|acronym|bdi|bdo|big|cite|code|del|dfn|em|font|img|ins|kbd|link|mark|meta|samp|small|span|strike|"
    "strong|sub|sup|svg|path|time|tt|var|wbr"
)
ATTRIBUTES = r"(?:[\s/][^<>]*)?"
# Names of one letter have attributes with values, or none: in `a<b and c>d` there is no tag.
VALUES = r"(?:\s(?=[^<>=]*=)[^<>]*|\s*/?)"
HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
BLOCK = re.compile(rf"</?(?:(?:{BLOCKS}){ATTRIBUTES}|p{VALUES})>", re.IGNORECASE)
INLINE_TAG = re.compile(rf"</?(?:(?:{INLINE}){ATTRIBUTES}|[abiqsu]{VALUES})>", re.IGNORECASE)


@register("step", "caption_clean")
class CaptionClean(StepSpec):
    """Repair captions: mojibake (`schÃ¶n`), HTML entities, control characters, broken surrogates, Unicode
    form NFC, by ftfy; and as the options below say. A caption with nothing to repair stays as it is, curly quotes,
    ligatures and full-width characters too. A caption of which nothing is left is removed, and a sample of
    which no caption is left is dropped as `caption_empty`; one that never had a caption passes."""

    kind: Literal["caption_clean"] = "caption_clean"
    strip_html: bool = True
    """Remove HTML tags and comments, and what script and style elements hold. Block tags become a space. Only names of
    HTML elements count, so that `<3` and `<image>` stay."""
    collapse_whitespace: bool = True
    """Turn each run of white space (line breaks and no-break spaces too) into one space; none at the ends."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        parts = []
        captions = left = 0
        for part in sample.parts:
            if isinstance(part, Text) and part.role == "caption":
                captions += 1
                text = self.clean(part.text)
                if not text or text.isspace():
                    continue
                left += 1
                part = part if text == part.text else replace(part, text=text)
            parts.append(part)
        if captions and not left:
            return Drop(reason="caption_empty", detail="nothing is left of the caption")
        return replace(sample, parts=tuple(parts))

    def clean(self, text: str) -> str:
        """The repaired text. Cleaning it again changes nothing.

        >>> CaptionClean().clean("schÃ¶n &amp; gut,<br>1 < 2  <3")
        'schön & gut, 1 < 2 <3'
        """
        for _ in range(ROUNDS):
            before, text = text, self._once(text)
            if text == before:
                break
        return text

    def _once(self, text: str) -> str:
        text = ftfy.fix_text(text, REPAIR)
        if self.strip_html and "<" in text:
            text = INLINE_TAG.sub("", BLOCK.sub(" ", HIDDEN.sub(" ", text)))
        return " ".join(text.split()) if self.collapse_whitespace else text
