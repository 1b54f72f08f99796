"""Small pictures as data URIs: thumbnails of kept images and of the ledger's examples, all re-encoded here.

Bytes are hostile even when verified (they came from the web), so nothing but what Pillow has decoded and
encoded again reaches the page.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

MOST_PIXELS = 64_000_000
"""Larger pictures are not decoded for a thumbnail (JPEG is: it decodes at a fraction of its size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`uri` is a `data:` URI; `width` and `height` are those of the thumbnail. Without a picture, `why` says so."""

    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""


def thumbnail(data: bytes, side: int, *, quality: int = 78) -> Picture:
    """At most `side` by `side` pixels, upright, on white where it was transparent, as JPEG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.draft("RGB", (side, side))
            if image.width * image.height > MOST_PIXELS:
                return Picture(why=f"no preview: {image.width} by {image.height} pixels")
            upright = _flat(ImageOps.exif_transpose(image))
            upright.thumbnail((side, side), Image.Resampling.HAMMING, reducing_gap=1.5)
            return encoded(upright, quality=quality)
    except Exception as error:  # a decoder may raise anything on hostile bytes; a missing preview is no failure
        return Picture(why=f"no preview: {type(error).__name__}")


def encoded(image: Image.Image, *, quality: int) -> Picture:
    """RGB as a data URI of JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    uri = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return Picture(uri=uri, width=image.width, height=image.height)


def _flat(image: Image.Image) -> Image.Image:
    """As RGB: transparency on white, 16-bit grey scaled to its own range, first frame of an animation."""
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L"):
        grey = image.convert("F")
        low, high = grey.getextrema()  # type: ignore[misc]
        span = max(float(high) - float(low), 1e-9)  # type: ignore[arg-type]
        return grey.point(lambda value: value * (255 / span) + (-float(low) * 255 / span)).convert("RGB")  # type: ignore
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        white.alpha_composite(layer)
        return white.convert("RGB")
    return image.convert("RGB")
