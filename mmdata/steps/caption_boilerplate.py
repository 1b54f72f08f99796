"""Drop samples whose caption is what pages say of any picture."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Literal

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

SUBJECT = (
    r"(?:(?:the|this|a|an|product|main|featured?|full|large|cover|profile|default|stock|blog|post|related|news) )*"
    r"(?:images?|photos?|pictures?|pics?|imgs?|graphics?|illustrations?|thumbnails?|screenshots?|videos?|logos?|icons?"
    r"|banners?|avatars?|gallery|alt(?: ?text)?)"
)
PHRASES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{SUBJECT}(?: (?:no )?\d+)?(?: (?:of|/) \d+)?",
        rf"(?:no|missing|empty) {SUBJECT}(?: (?:available|found|yet|description))?",
        rf"{SUBJECT} (?:is )?(?:not|un)\s?(?:available|found|loaded)",
        rf"{SUBJECT} (?:placeholder|may contain|description|credit|source|via|by|here|not displayed)(?: here)?",
        r"(?:no|empty|missing|add|insert)(?: an?)? (?:alt(?: ?text)?|caption|description|title)"
        r"(?: (?:available|provided|here))?",
        r"(?:double )?(?:click|tap)(?: here| on)?(?: the| this)?(?: image| photo| picture)? (?:to|for) .{1,40}",
        r"(?:view|see|show|open|enlarge|zoom|download|share|save|pin|buy|order|shop|read|learn|watch|play|continue)"
        r"(?: it| this| the| full| all| a| in| on| more| now| here| size| image| photos?| gallery| larger?| video"
        r"| reading| details?| lightbox| fullscreen| slideshow| window| about| pinterest| facebook| twitter)*",
        r"(?:all rights reserved|copyright(?: .{1,40})?|loading|please wait|advertisement|sponsored|untitled|unnamed"
        r"|unknown|n a|none|null|undefined|placeholder|spacer|pixel|tracking|lazy|lorem ipsum|test|example|home|menu"
        r"|search|close|next|previous|back|prev|arrow|facebook|twitter|instagram|youtube|linkedin|email|print)",
        r"(?:image|photo|picture|photograph)s? (?:credits?|courtesy|source|copyright) .{1,60}",
        r"(?:posted|published|updated|uploaded) (?:on|by) .{1,40}",
    )
)


@register("step", "caption_boilerplate")
class CaptionBoilerplate(StepSpec):
    """Drop samples one of whose captions says nothing of its picture: `image`, `Photo 3 of 12`, `click to enlarge`, `no
    description available`, `Image credit: ...`. Only whole captions count, in any case and whatever their punctuation;
    English phrases are known. (Captions that one site repeats are found by `limit_per` with `by: caption`.)"""

    kind: Literal["caption_boilerplate"] = "caption_boilerplate"
    phrases: tuple[str, ...] = ()
    """Further captions that are boilerplate."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        own = {plain(phrase) for phrase in self.phrases}
        for text in sample.texts:
            if text.role != "caption":
                continue
            caption = plain(text.text)
            if caption in own or any(pattern.fullmatch(caption) for pattern in PHRASES):
                return Drop(reason=self.kind, detail=text.text.strip()[:80])
        return sample


def plain(text: str) -> str:
    """Lower case words without punctuation.

    >>> plain("  Click here, to ENLARGE! (3/4) ")
    'click here to enlarge 3 4'
    """
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
