"""Take out of captions what alternative texts of web pages have around the description."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._texts import rewritten
from mmdata.steps.caption_filename import EXTENSION
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Rule = Literal["extension", "counter", "size", "prefix", "url", "site", "credit", "separators"]
RULES: tuple[Rule, ...] = ("url", "extension", "separators", "counter", "size", "prefix", "credit", "site")
THING = r"(?:image|photo(?:graph)?|picture|pic|illustration|screenshot|thumbnail|alt(?:[ -]?text)?|graphic)"
NAMED = r"(?:shutterstock|getty images?|istock(?:photo)?|alamy|dreamstime|123rf|depositphotos|adobe stock)"
AGENCIES = rf"(?:{NAMED}|stock ?(?:photos?|photography|images?)\b)"
SEPARATOR = re.compile(r"(?<=[^\W_])[_+-]+(?=[^\W_])")
CREDIT = r"(?:credits?|courtesy|copyright|source)"
PATTERNS: dict[str, re.Pattern[str]] = {
    "url": re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE),
    "extension": re.compile(EXTENSION.pattern + r"(?=\s*$|[\s,;|)])", re.IGNORECASE),
    "counter": re.compile(
        rf"[\s,;:|(\[–-]*\b{THING}\s*(?:no\.?|number|#)?\s*\d+(?:\s*(?:of|/)\s*\d+)?[\s)\]]*$"
        r"|\s*[;|(\[–-]\s*\d+\s*(?:of|/)\s*\d+[\s)\]]*$"  # without a sign before it, it is a date or a score
        rf"|^{THING}\s*\d+\s*(?:of|/)\s*\d+[\s:,–-]+",
        re.IGNORECASE,
    ),
    "size": re.compile(
        r"[\s,;|(\[-]*\b(?:\d{3,5}\s?[x×]\s?\d{3,5}(?:\s?(?:px|pixels))?|\d{2,5}\s?[x×]\s?\d{2,5}\s?(?:px|pixels))\b[)\]]?",
        re.IGNORECASE,
    ),
    "prefix": re.compile(
        rf"^(?:(?:an?|the|this)\s+)?{THING}\s*(?:\d+\s*)?(?::\s*|\s+(?:of|showing|shows|depicting)\s+)", re.IGNORECASE
    ),
    # A credit has a sign of one, a colon, a name, a year: `a credit card` and `the source of a river` have not.
    "credit": re.compile(
        r"[\s,;|(\[–-]*(?:"
        rf"\b{THING}s?\s*{CREDIT}\b\s*(?::|by\b|of\b|©|(?-i:(?=[A-Z@])))|\b{CREDIT}\s*:|\b(?:courtesy of|courtesy by)\b"
        r"|\bcopyright\s+(?:by\b|©|\(c\)|\d{4}\b)|©|\(c\)\s*(?:\d{4}\b|(?-i:(?=[A-Z])))"
        r").{0,80}$"
        rf"|[\s,;|(–-]+(?:royalty[ -]free\b.{{0,40}}|{AGENCIES})$|\s*[,;|(–-]\s*{AGENCIES}.{{0,30}}$",
        re.IGNORECASE,
    ),
    "site": re.compile(r"\s+[|»«·•]\s+[^|»«·•]{1,40}$"),
}


@register("step", "alt_text_clean")
class AltTextClean(StepSpec):
    """Take out of captions what alternative texts and page titles have around a description, by named rules. A caption
    of which nothing is left is removed, and a sample of which no caption is left is dropped as `alt_text_empty`. Stands
    after `caption_clean`, which repairs damage.

    `url`: addresses. `extension`: a file's. `separators`: a caption without spaces is parted at `_`, `-` and `+`, if it
    has a `_` or several of the others. `counter`: `Image 3 of 12`, `(3/12)`. `size`: `1920x1080 px`. `prefix`: `Photo
    of`, `Alt text:`. `credit`: `© Ann`, `Photo credit: Ann`, ` - Shutterstock`. `site`: ` | Site name` at the end.
    """

    kind: Literal["alt_text_clean"] = "alt_text_clean"
    rules: tuple[Rule, ...] = RULES
    """What is taken out."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        return rewritten(sample, ("caption",), self.clean, empty="alt_text_empty")

    def clean(self, text: str) -> str:
        """The caption without what the rules take out; doing it again changes nothing.

        >>> clean = AltTextClean().clean
        >>> clean("Photo of a red-brick house, 1920x1080 | Homes & Co"), clean("red_car.jpg")
        ('a red-brick house', 'red car')
        """
        while True:
            before = text
            for rule in RULES:
                if rule in self.rules:
                    text = self._apart(text) if rule == "separators" else PATTERNS[rule].sub(" ", text)
                    text = re.sub(" {2,}", " ", text).strip().rstrip(",;|–-").strip() if text != before else text
            if text == before:
                return text

    def _apart(self, text: str) -> str:
        names = len(SEPARATOR.findall(text)) > 1 or "_" in text.strip("_")  # `T-shirt`, `x-ray` and `C++` are words
        if len(text.split()) != 1 or not names or "@" in text:
            return text
        return " ".join(re.split(r"[_+-]+", text)).strip()
