"""Look at each medium once: facts from its header, proof that it decodes, and named rules for odd pictures."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.decode.glance import Glance, glance
from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps import _boxes
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.image import ImageHeader
    from mmdata.decode.work import Work

Rule = Literal["keep", "convert", "reject"]
ImageFormat = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "jp2"]
RULES = ("alpha", "grayscale", "palette", "cmyk", "sixteen_bit", "animated")
QUALITY = 95
AT_SIGHT_BYTES = 512 << 10
"""Of a picture that is looked at in the build's own process: its digest holds up the connections for as long as it
would take to hand the picture over."""
_ODD_AT_SIGHT = {"L": "grayscale", "RGBA": "alpha"}
"""Rules that a picture of such a mode falls under, of those that are known at sight."""


@register("step", "probe")
class Probe(StepSpec):
    """Establish the facts of every medium and prove that it decodes. Of a picture: format, upright size, mode, frames;
    of a video: format, upright size, frames, frame rate, seconds, its packet table (so that nobody has to scan the
    file again) and its sound's rate, channels and length; of audio: format, rate, channels, length; of each the digest
    of the source bytes.

    Bytes stay as they came unless a rule below says otherwise; the rules are for pictures. What is converted is written
    once, without EXIF and other metadata: JPEG sources as JPEG of quality 95 (4:4:4, or the chroma subsampling the
    source has), lossless sources as PNG, WebP and lossy sources with transparency as WebP of quality 95, other
    lossy ones (AVIF, JPEG 2000) as JPEG of that quality. A damaged file ends the record as
    `failed_permanent` with the reason (`truncated_image`, `corrupt_video`, `not_an_image`, `decompression_bomb`, ...);
    a rejecting rule drops the sample under the rule's name.
    """

    kind: Literal["probe"] = "probe"
    verify: Literal["full", "header"] = "full"
    """`full`: decode the whole file, every frame and all sound (where no later step needs the pixels, a JPEG's codes
    are read without making them, or with an eighth of them; that catches the same damage). `header`: trust everything
    behind the header; for sources that were verified before."""
    max_pixels: int = Field(178_956_970, ge=1)
    """Refuse larger pictures and video frames by their header, before any memory is taken: `decompression_bomb`."""
    max_frames: int = Field(1_000_000, ge=1)
    """Refuse videos of more frames: `too_many_frames`."""
    max_seconds: float = Field(14_400.0, gt=0)
    """Refuse longer videos and audio: `video_too_long`, `audio_too_long`."""
    formats: tuple[ImageFormat, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "jp2")
    """Formats of pictures to accept, by magic bytes; others are dropped as `format`."""
    orientation: Literal["bake", "keep"] = "bake"
    """EXIF orientation. `bake`: turn and re-encode those few pictures that need it, without the tag, so that nobody
    turns them twice. `keep`: leave the bytes; the facts are upright all the same."""
    alpha: Rule = "keep"
    """Transparency of any kind. `convert`: composite on white."""
    grayscale: Rule = "keep"
    """One channel. `convert`: three equal channels."""
    palette: Rule = "keep"
    """Indexed colour. `convert`: RGB (transparency composited on white)."""
    cmyk: Rule = "convert"
    """Printing inks, which most readers show wrongly. `convert`: RGB, JPEG of quality 95."""
    sixteen_bit: Rule = "convert"
    """More than 8 bits per sample, which most readers clip to white. `convert`: the high 8 bits, as PNG."""
    animated: Rule = "convert"
    """More than one frame or page. `convert`: the first, as PNG."""
    digest: Literal["sha256", "none"] = "sha256"
    """Digest of the bytes as they came from the source."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        placed = _boxes.placed(sample, work)
        if isinstance(placed, Drop):
            return placed
        sample = placed
        parts = list(sample.parts)
        for at, part in enumerate(parts):
            if isinstance(part, Media):
                probed = self._probe(part, work) if part.kind == "image" else self._timed(part)
                if isinstance(probed, Drop):
                    return probed
                parts[at] = probed
        return replace(sample, parts=tuple(parts))

    def at_sight(self, sample: Sample) -> Sample | None:
        if self.verify != "header" or sample.boxed is not None:
            return None
        parts = list(sample.parts)
        for at, part in enumerate(parts):
            if isinstance(part, Media):
                if part.kind != "image" or part.data is None or len(part.data) > AT_SIGHT_BYTES:
                    return None
                found = glance(part.data, max_pixels=self.max_pixels)
                if found is None or found.format not in self.formats:
                    return None
                if (rule := _ODD_AT_SIGHT.get(found.mode)) is not None and getattr(self, rule) != "keep":
                    return None
                parts[at] = self._known(part, found, frames=1)
        return replace(sample, parts=tuple(parts))

    def _timed(self, media: Media) -> Media:
        """The facts of a video or of audio."""
        if media.data is None:
            raise ValueError(f"media {media.uri} holds no bytes: steps run after fetching")
        if media.kind == "video":
            from mmdata.decode import demux, video_facts

            limits = demux.Limits(max_pixels=self.max_pixels, max_frames=self.max_frames, max_seconds=self.max_seconds)
            facts = video_facts.read_facts(media.data, verify=self.verify, limits=limits)
        else:
            from mmdata.decode import audio

            facts = audio.read_facts(media.data, verify=self.verify, max_seconds=self.max_seconds)
        return replace(
            facts,
            data=media.data,
            uri=media.uri,
            role=media.role,
            marks=media.marks,
            sha256=self._digest(media),
        )

    def _digest(self, media: Media) -> str | None:
        if media.sha256 is None and self.digest == "sha256":
            assert media.data is not None
            return hashlib.sha256(media.data).hexdigest()
        return media.sha256

    def _probe(self, media: Media, work: Work) -> Media | Drop:
        header = work.header(media)
        if header.height * header.width > self.max_pixels:
            raise DataError(
                "decompression_bomb", f"{header.width}x{header.height}, more than {self.max_pixels:,} pixels"
            )
        if header.format not in self.formats:
            return Drop(reason="format", detail=f"{header.format}; accepted are {', '.join(self.formats)}")
        odd = [name for name in RULES if _applies(name, header)]
        for name in odd:
            if getattr(self, name) == "reject":
                return Drop(reason=name, detail=_describe(header))
        if self.verify == "full":
            work.verify(media)
        facts = self._known(media, header, frames=header.frames)
        convert = {name for name in odd if getattr(self, name) == "convert"}
        if header.orientation != 1 and self.orientation == "bake":
            convert.add("orientation")
        return self._convert(facts, header, convert, work) if convert else facts

    def _known(self, media: Media, header: ImageHeader | Glance, *, frames: int) -> Media:
        return replace(
            media,
            format=header.format,
            height=header.height,
            width=header.width,
            mode=header.mode,
            frames=frames,
            sha256=self._digest(media),
            verified=self.verify,
        )

    def _convert(self, media: Media, header: ImageHeader, convert: set[str], work: Work) -> Media:
        from mmdata.decode import image

        assert media.data is not None
        flatten = bool(convert & {"alpha", "palette"})
        if convert & {"animated", "sixteen_bit"}:
            format: image.Encoded = "png"
        elif "cmyk" in convert:
            format = "jpeg"
        else:
            format = image.family(media.data, header, alpha=not flatten)
        data, height, width, mode = image.rewrite(
            media.data,
            max_pixels=work.max_pixels,
            flatten=flatten,
            eight_bit="sixteen_bit" in convert,
            rgb=bool(convert & {"grayscale", "palette", "cmyk"}),
            format=format,
            quality=QUALITY,
        )
        for name in sorted(convert):
            work.note(name)
        return replace(media, data=data, format=format, height=height, width=width, mode=mode, frames=1)


def _applies(name: str, header: ImageHeader) -> bool:
    """Whether a picture has the oddity that the rule is named after."""
    return {
        "alpha": header.alpha,
        "grayscale": header.grey,
        "palette": header.mode in ("P", "PA"),
        "cmyk": header.mode == "CMYK",
        "sixteen_bit": header.bits > 8,
        "animated": header.frames > 1,
    }[name]


def _describe(header: ImageHeader) -> str:
    stored = f"mode {header.mode}, {header.bits} bits, {header.frames} frames"
    return f"{header.format} {header.width}x{header.height}, {stored}"
