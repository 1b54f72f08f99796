"""Drop samples whose caption is the name of a file."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

EXTENSION = re.compile(
    r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif|heic|svg|mp4|mov|webm|mkv|avi|mp3|wav|flac|ogg|m4a)", re.I
)
# What cameras, telephones, messengers and scanners call their files.
CAMERA = re.compile(
    r"(?:(?:img|image|dsc[nf]?|dscf|dcim|pxl|mvimg|vid|mov|pano|burst|gopr|dji|p|pict|picture|photo|foto|scan"
    r"|screen ?shot|snapshot|untitled|unnamed|unknown|download|file|whatsapp (?:image|video)|signal|fb ?img|received)"
    r"(?:[ _.()-]|at|copy|edited|\d)*\d(?:[ _.()-]|at|copy|edited|am|pm|wa|\d)*)",
    re.IGNORECASE,
)
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
HEX = re.compile(r"(?=\S*\d)(?=\S*[a-f])[0-9a-f]{12,128}", re.IGNORECASE)
NUMBERS = re.compile(r"[\d _.x×()-]*\d[\d _.x×()-]*", re.IGNORECASE)


@register("step", "caption_filename")
class CaptionFilename(StepSpec):
    """Drop samples one of whose captions is the name of a file and not a description: it ends in a file's extension, is
    the name in the address of the medium, what a camera or messenger calls its files (`IMG_2041`, `DSC00017 copy`), a
    UUID or hash, or nothing but numbers (`1920x1080`). The detail says which."""

    kind: Literal["caption_filename"] = "caption_filename"

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        stems = {_stem(media.uri) for media in sample.media if media.uri} - {""}
        for text in sample.texts:
            if text.role == "caption" and (why := why_name(text.text, stems)) is not None:
                return Drop(reason=self.kind, detail=f"{why}: {text.text.strip()[:80]}")
        return sample


def why_name(text: str, stems: set[str] | frozenset[str] = frozenset()) -> str | None:
    """Why a caption is taken for a file's name, or None. `stems` are names of the media's files, as `_stem` gives them.

    >>> why_name("holiday.JPG"), why_name("DSC_0017 (2)"), why_name("Three cats on a wall, 2019")
    ('extension', 'camera', None)
    """
    text = text.strip()
    last = text.rpartition(".")
    if last[0] and EXTENSION.fullmatch("." + last[2]) and len(text.split()) <= 4:
        return "extension"
    for why, pattern in (("camera", CAMERA), ("uuid", UUID), ("hash", HEX), ("numbers", NUMBERS)):
        if pattern.fullmatch(text):
            return why
    return "address" if re.search(r"[_\d]|^\S+-\S+$", text) and _stem(text) in stems else None


def _stem(uri: str) -> str:
    """The name of a file without folder, extension and separators.

    >>> _stem("https://example.org/a/Red-Car%2002.jpg?x=1")
    'redcar02'
    """
    try:
        name = posixpath.basename(unquote(urlsplit(uri).path))
    except ValueError:
        return ""
    stem, dot, extension = name.rpartition(".")
    return re.sub(r"[\W_]+", "", stem if dot and EXTENSION.fullmatch("." + extension) else name).lower()
