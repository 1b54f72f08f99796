"""The runtime context of one record in a worker: every step asks here for headers and pixels, and each picture is
decoded once, at the smallest scale that answers all who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmdata.decode import image, jpeg, likeness
from mmdata.decode.image import ImageHeader
from mmdata.errors import DataError
from mmdata.native import pillow
from mmdata.native.pillow import Picture
from mmdata.types import Media

Pixels = npt.NDArray[np.uint8]
THUMBNAIL_QUALITY = 80


@dataclass(slots=True)
class _Seen:
    """What is known of some bytes. Holding `data` keeps its identity from being given to other bytes."""

    data: bytes
    header: ImageHeader | None = None
    pixels: Pixels | None = None
    picture: Image.Image | None = None
    small: Picture | None = None
    verified: bool = False


class Work:
    """Headers, pixels and previews of the media of one record, cached by the identity of their bytes.

    `max_pixels` is the size beyond which a picture is refused before anything is allocated. `needs_pixels` says that
    some step will ask for exact pixels, so that verification decodes at full size, once, instead of looking for damage
    and again; `as_picture`, that it will ask for a `picture` only; `needs_preview`, that it will ask for a small one,
    so that verification makes one. `notes` counts what was converted, by name. Call `clear` between records. Not
    thread-safe: one per thread.
    """

    def __init__(
        self,
        *,
        max_pixels: int = image.MAX_PIXELS,
        needs_pixels: bool = False,
        as_picture: bool = False,
        needs_preview: bool = False,
    ) -> None:
        self.max_pixels = max_pixels
        self.needs_pixels = needs_pixels
        self.as_picture = as_picture
        self.needs_preview = needs_preview
        self.notes: Counter[str] = Counter()
        self._seen: dict[int, _Seen] = {}

    @classmethod
    def for_steps(cls, steps: Iterable[Any]) -> Work:
        """The context that these steps want: the pixel limit of their `probe`, and whether any needs exact pixels."""
        steps = tuple(steps)
        limits = [step.max_pixels for step in steps if step.kind == "probe"]
        decoding = [step for step in steps if getattr(step, "needs_pixels", False)]
        return cls(
            max_pixels=max(limits, default=image.MAX_PIXELS),
            needs_pixels=bool(decoding),
            as_picture=all(step.kind == "resize" for step in decoding),
            needs_preview=any(getattr(step, "needs_preview", False) for step in steps),
        )

    def clear(self) -> None:
        """Forget the record: pixels and notes."""
        self._seen.clear()
        self.notes.clear()

    def note(self, name: str) -> None:
        """Count a conversion."""
        self.notes[name] += 1

    def _entry(self, media: Media) -> _Seen:
        if media.data is None:
            raise ValueError(f"media {media.uri} holds no bytes: steps run after fetching")
        seen = self._seen.get(id(media.data))
        if seen is None:
            seen = self._seen[id(media.data)] = _Seen(media.data)
        return seen

    def header(self, media: Media) -> ImageHeader:
        """Raises DataError as `image.read_header` does."""
        seen = self._entry(media)
        if seen.header is None:
            seen.header = image.read_header(seen.data, max_pixels=self.max_pixels)
        return seen.header

    def size(self, media: Media) -> tuple[int, int]:
        """Upright (height, width): the facts, or where nobody has looked yet, the header's."""
        if media.height is not None and media.width is not None:
            return media.height, media.width
        header = self.header(media)
        return header.height, header.width

    def pixels(self, media: Media) -> Pixels:
        """Exact upright RGB, uint8 [H, W, 3], read-only. Raises DataError as `image.decode` does."""
        seen = self._entry(media)
        if seen.pixels is None:
            if seen.picture is not None:
                pixels = np.array(seen.picture)
            else:
                pixels = image.decode(seen.data, max_pixels=self.max_pixels, header=self.header(media))
            seen.pixels = _frozen(pixels)
        return seen.pixels

    def picture(self, media: Media) -> Picture:
        """The same pixels in the form that is resized soonest here, not to be changed: an array for the compiled
        kernels, and without them a Pillow image, unless the array is there already."""
        seen = self._entry(media)
        if pillow.by_kernels() or seen.pixels is not None:
            return self.pixels(media)
        if seen.picture is None:
            seen.picture = image.decode_picture(seen.data, max_pixels=self.max_pixels, header=self.header(media))
        return seen.picture

    def scaled(self, media: Media, *, min_height: int, min_width: int, guard: float) -> Picture:
        """At least `guard` times the given size, in the form of `picture`: the exact pixels if they are there already,
        else as `image.decode_scaled` makes them."""
        seen = self._entry(media)
        if seen.pixels is not None or seen.picture is not None:
            return self.picture(media)
        small = seen.small
        if small is None or not _reaches(small, guard * min_height, guard * min_width):
            header = self.header(media)
            decode = image.decode_scaled if pillow.by_kernels() else image.decode_scaled_picture
            small = decode(
                seen.data,
                min_height=min_height,
                min_width=min_width,
                max_pixels=self.max_pixels,
                guard=guard,
                header=header,
            )
            whole = pillow.size(small) == (header.height, header.width)
            if not isinstance(small, Image.Image):
                small = _frozen(small)
                seen.pixels = small if whole else None
            elif whole:
                seen.picture = small
            if not whole:
                seen.small = small
        return small

    def verify(self, media: Media) -> None:
        """Prove that the whole file decodes, all frames of it. Raises DataError as `image.decode` does."""
        seen = self._entry(media)
        if seen.verified:
            return
        header = self.header(media)
        if header.format == "jpeg" and not self.needs_pixels:
            known = seen.small is not None or seen.pixels is not None  # Decoding at any scale has read the whole file.
            if not known and (self.needs_preview or not jpeg.check(seen.data)):
                self.scaled(media, min_height=1, min_width=1, guard=1.0)
        elif self.as_picture:
            self.picture(media)
        else:
            self.pixels(media)
        if header.frames > 1:
            image.verify_frames(seen.data, max_pixels=self.max_pixels)
        seen.verified = True

    def preview(self, media: Media, side: int) -> Pixels:
        """A small likeness, uint8 [h, w, 3] with both sides at least `side` where the picture has that many pixels:
        for perceptual hashes and thumbnails. Approximate: whether it comes from exact or DCT-scaled pixels depends on
        what other steps have asked for. Raises DataError as `image.decode` does."""
        small = self.scaled(media, min_height=side, min_width=side, guard=1.0)
        factor = min(pillow.size(small)) // max(side, 1)
        return pillow.reduce(small, factor) if factor > 1 else np.asarray(small)

    def thumbnail(self, media: Media, side: int = 96) -> bytes | None:
        """A JPEG whose longer side is at most `side`, of a picture, a video's first frame or a sound's outline; None
        for what cannot be decoded."""
        try:
            if media.kind == "image":
                small = Image.fromarray(self.preview(media, side))
            else:
                found = likeness.of(self._entry(media).data, media, side=side, max_pixels=self.max_pixels)
                if found is None:
                    return None
                small = Image.fromarray(found)
        except DataError:
            return None
        small.thumbnail((side, side))
        return image.encode(np.asarray(small), "jpeg", THUMBNAIL_QUALITY)


def _reaches(picture: Picture, height: float, width: float) -> bool:
    tall, wide = pillow.size(picture)
    return tall >= height and wide >= width


def _frozen(pixels: Pixels) -> Pixels:
    """Read-only, for it is shared by all who ask."""
    pixels.flags.writeable = False
    return pixels
